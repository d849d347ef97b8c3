"""Who is taken for dead, and who is not."""

from mlenv.work.runner import BEAT, DEAD, Watch


def _listen(watch: Watch, until: float, *, start: float = 0.0, living: tuple[str, ...] = ()) -> dict[float, set[str]]:
    """What a watch says at each of its beats, of a worker `still` and of others whose numbers grow."""
    said, now = {}, start
    while now <= until:
        said[now] = watch.silent({"still": 7, **dict.fromkeys(living, int(now))}, now)
        now += BEAT
    return said


def test_a_worker_is_dead_after_ten_seconds_of_silence_and_not_before() -> None:
    said = _listen(Watch(), DEAD + 2 * BEAT, living=("a", "b"))
    assert {now: each for now, each in said.items() if each} == {
        now: {"still"} for now in (DEAD + BEAT, DEAD + 2 * BEAT)
    }


def test_who_could_not_listen_takes_nobody_for_dead() -> None:
    watch = Watch()
    _listen(watch, DEAD)
    later = DEAD + 60.0
    said = _listen(watch, later + DEAD + BEAT, start=later)
    assert [now for now, each in said.items() if each] == [later + DEAD + BEAT]


def test_a_sign_of_life_counts_from_when_it_came() -> None:
    watch = Watch()
    _listen(watch, DEAD - BEAT)
    assert watch.silent({"still": 8}, DEAD) == set()
    assert watch.silent({"still": 8}, DEAD + BEAT) == set()


def test_who_has_signed_off_is_forgotten() -> None:
    watch = Watch()
    _listen(watch, DEAD + BEAT)
    assert watch.silent({}, DEAD + 2 * BEAT) == set()
    assert watch.silent({"still": 7}, DEAD + 3 * BEAT) == set()
