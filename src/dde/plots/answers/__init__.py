"""Pictures of answers: one module per question, named after the function whose answer it draws."""
