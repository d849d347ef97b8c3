"""What tests share: working stand-ins for the outside world."""
