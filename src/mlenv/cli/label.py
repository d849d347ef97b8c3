"""`mlenv environment label set|list`: names such as `production` that point at versions."""

import argparse
from typing import Final

from msgspec import Struct

from mlenv.cli.arguments import add_reference, to_reference
from mlenv.cli.command import Context, ExitStatus, Verb
from mlenv.cli.documents import LABEL_COLUMNS, label_documents
from mlenv.core.reference import LabelName, Reference, parse_label


class SetSettings(Struct, frozen=True):
    """What `label set` is told."""

    reference: Reference
    label: LabelName


def _set_arguments(parser: argparse.ArgumentParser) -> None:
    add_reference(parser, label=False)
    parser.add_argument("-l", "--label", required=True, dest="new_label", help="the label, such as production")


def _set_settings(namespace: argparse.Namespace) -> SetSettings:
    return SetSettings(to_reference(namespace), parse_label(namespace.new_label))


def _set(settings: SetSettings, context: Context) -> int:
    version = context.store.environments.set_label(settings.reference, settings.label)
    context.printer.say(f"{version.name}@{settings.label} is now {version}")
    return ExitStatus.DONE


set_label: Final = Verb(_set_arguments, _set_settings, _set)


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    add_reference(parser, version=False, label=False)


def _list(reference: Reference, context: Context) -> int:
    context.printer.data(label_documents(context.store.environments.labels(reference)), LABEL_COLUMNS)
    return ExitStatus.DONE


list_labels: Final = Verb(_list_arguments, to_reference, _list)
