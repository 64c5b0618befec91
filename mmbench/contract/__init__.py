"""What every training method must do: checks to run on a class, and a template to start from."""
