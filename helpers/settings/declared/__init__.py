"""Every setting, declared once, by theme."""
