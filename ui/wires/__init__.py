"""What happens on the page when something is chosen, moved or pressed."""
