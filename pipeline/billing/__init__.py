"""What distillation costs: predicted from a few measured steps, and as it happened."""
