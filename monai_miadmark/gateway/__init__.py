# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""A DICOM node between modalities and an archive: what comes in is protected, or restored, and sent on.

``pynetdicom`` (the extra ``gateway``) is needed to run it, not to look at its queue.
"""

from monai_miadmark.gateway.service import serve
from monai_miadmark.gateway.settings import MIB, ClientTLS, GatewaySettings, Node, ServerTLS
from monai_miadmark.gateway.spool import Spool, SpoolError, SpoolStatus, read_status, requeue

__all__ = [
    "MIB",
    "ClientTLS",
    "GatewaySettings",
    "Node",
    "ServerTLS",
    "Spool",
    "SpoolError",
    "SpoolStatus",
    "read_status",
    "requeue",
    "serve",
]
