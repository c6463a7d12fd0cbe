"""Where the parts run: one protocol (``base``), one module per engine."""
