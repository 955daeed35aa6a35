"""Checks on data: the rules and what they measure, copies, odd images, wrong labels, shift, people's decisions."""
