"""What trainings read: labeled and unlabeled examples."""
