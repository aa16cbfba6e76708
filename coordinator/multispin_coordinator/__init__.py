"""The coordinator: hosts the target model and verifies the drafts of all agents."""
