"""Istio's API as frozen dataclasses, one module per kind; nothing here decides anything.

Names are Istio's (https://istio.io/latest/docs/reference/config/). `ONEOFS` of a class lists fields
of which at most one may be set; such fields are None when they are absent. Durations are
`timedelta`, enums are `StrEnum` with Istio's names. Fields that Istio dropped do not exist here:
`legacy.py` turns them into what replaced them.
"""
