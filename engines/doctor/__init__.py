"""What this machine can run and build, tried and measured."""
