"""What is asked for and answered: a module for each thing that is shown, and the documents of them all."""
