"""Whole workflows by the names that scripts for PtychoPINN use."""
