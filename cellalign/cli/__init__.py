"""The application: assembles the commands that `tasks` declares, and says things. It holds no task's logic."""
