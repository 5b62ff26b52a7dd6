"""Engines that do independent pieces of work on other processes and machines; nothing else imports them."""
