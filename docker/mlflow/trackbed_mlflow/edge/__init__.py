"""What every request passes before MLflow: the access token, who asks, which addresses, how much it brings."""
