# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Pages for people: what a folder job did, and what evaluations measured. Above the jobs; nothing below knows of it."""
