/*
 * Before the C library: the time of day, as far off as the file says that $JUMPING_CLOCK names. Clocks that never jump
 * (clock_gettime(2), CLOCK_MONOTONIC) are left alone. No header and no library, so that only a compiler is needed.
 *
 * The numbers are those of system calls on x86-64.
 */

typedef long long seconds;
struct time { seconds tv_sec; long tv_nsec; };
struct day { seconds tv_sec; long tv_usec; };

extern long syscall(long number, ...);
extern char *getenv(const char *name);

enum { READ = 0, OPEN = 2, CLOSE = 3, CLOCK_GETTIME = 228, REALTIME = 0, REALTIME_COARSE = 5 };

/* How far the clock is off, in seconds: what the file says now. */
static seconds offset(void)
{
    char text[32];
    const char *at = text, *path = getenv("JUMPING_CLOCK");
    seconds found = 0, sign = 1;
    long file = path ? syscall(OPEN, path, 0) : -1, size;
    if (file < 0)
        return 0;
    size = syscall(READ, file, text, sizeof text - 1);
    syscall(CLOSE, file);
    text[size > 0 ? size : 0] = 0;
    if (*at == '-')
        sign = -1, at++;
    while (*at >= '0' && *at <= '9')
        found = found * 10 + (*at++ - '0');
    return sign * found;
}

int clock_gettime(int clock, struct time *now)
{
    long result = syscall(CLOCK_GETTIME, clock, now);
    if (result == 0 && (clock == REALTIME || clock == REALTIME_COARSE))
        now->tv_sec += offset();
    return (int)result;
}

int gettimeofday(struct day *now, void *zone)
{
    struct time found;
    clock_gettime(REALTIME, &found);
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return 0;
}

seconds time(seconds *now)
{
    struct time found;
    clock_gettime(REALTIME, &found);
    if (now)
        *now = found.tv_sec;
    return found.tv_sec;
}
