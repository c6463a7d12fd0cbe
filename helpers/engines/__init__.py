"""Where the services run: one protocol (``base``), one module per engine."""
