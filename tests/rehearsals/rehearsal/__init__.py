"""Rehearsals of docs/disaster-recovery.md.

    page      the page's sections, steps and commands
    machine   a machine with SoftHSM2 and a proxy, which a scenario breaks
    kms       AWS's side: signed calls to the proxy, and the state of a key store
    course    the course of a scenario: runs the page's steps, prints, checks
"""
