"""A file for each section of docs/disaster-recovery.md."""
