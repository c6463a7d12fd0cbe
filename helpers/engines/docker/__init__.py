"""The docker engine: one concern a module, `engine` fills the protocol."""
