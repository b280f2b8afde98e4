"""What the doctor looks at: small functions, each of which finds one thing and says how to mend it."""
