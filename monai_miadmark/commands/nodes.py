# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""``gateway``: a DICOM node, or its queue."""

from __future__ import annotations

import json
from argparse import Namespace

from monai_miadmark import gateway as node
from monai_miadmark import keys
from monai_miadmark.arguments import UsageError
from monai_miadmark.commands.console import FAILED, say, shown
from monai_miadmark.commands.jobs import protect_task
from monai_miadmark.commands.key_files import checked, opening_of
from monai_miadmark.tasks import RemoveTask, Task

__all__ = ["gateway"]


def gateway(options: Namespace) -> int:
    """Run a DICOM node, or look after its queue."""
    try:
        if options.status is not None:
            return _tell_status(options)
        if options.requeue is not None:
            number = node.requeue(options.requeue)
            say(f"{number} dead object{'' if number == 1 else 's'} will be tried again")
            return 0
        settings = _gateway_settings(options)
        task: Task
        if options.protect:
            task = protect_task(options)
        else:
            if options.require_signer is not None:
                checked(keys.load_verifier, options.require_signer)
            task = RemoveTask(**opening_of(options), require_signer=options.require_signer)
        reason = node.serve(settings, task)
    except ImportError as error:
        raise UsageError("pynetdicom is not installed", "pip install 'monai-miadmark[gateway]'") from error
    except node.SpoolError as error:
        say(shown(error))
        return FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        say(shown(f"{where}{error.strerror or 'cannot be used'}"))
        return FAILED
    return 0 if reason is None else FAILED


def _tell_status(options: Namespace) -> int:
    """What is in a queue."""
    told = node.read_status(options.status).to_dict()
    if options.json:
        print(json.dumps(told, indent=2))
        return 0
    for name, value in told.items():
        lines = [f"{number} {shown(key)}" for key, number in value.items()] if isinstance(value, dict) else [value]
        for line in lines:
            print(f"{name.replace('_', ' ')}: {line}")
    return 0


def _gateway_settings(options: Namespace) -> node.GatewaySettings:
    """How the command line says that a node is to work."""
    missing = [name for name in ("queue", "listen", "next") if getattr(options, name) is None]
    if missing:
        raise UsageError(f"--{missing[0]} is not given", "miadmark gateway --help shows what is expected")
    for group in (("cert", "key", "ca"), ("next_cert", "next_key")):
        given = [getattr(options, name) is not None for name in group]
        if any(given) and not all(given):
            names = ", ".join(f"--{name.replace('_', '-')}" for name in group)
            raise UsageError(f"{names} belong together", "give all of them or none")
    if options.next_cert is not None and options.next_ca is None:
        raise UsageError("--next-cert needs --next-ca", "name who signs the next node's certificate")
    try:
        server = None if options.cert is None else node.ServerTLS(options.cert, options.key, options.ca)
        client = None
        if options.next_ca is not None:
            client = node.ClientTLS(options.next_ca, options.next_cert, options.next_key)
        return node.GatewaySettings(
            queue=options.queue,
            listening=node.Node.parse_listening(options.listen),
            title=options.aet,
            callers=tuple(options.allow),
            next_node=node.Node.parse(options.next),
            pass_unsupported=options.pass_unsupported,
            server_tls=server,
            client_tls=client,
            workers=options.jobs,
            limit_bytes=int(options.limit * 1024 * node.MIB),
            reserve_bytes=int(options.reserve * 1024 * node.MIB),
            object_bytes=options.max_object * node.MIB,
            associations=options.associations,
            keep_seconds=options.keep * 3600,
        )
    except (ValueError, OverflowError) as error:
        raise UsageError(shown(error), "miadmark gateway --help shows what is expected") from error
