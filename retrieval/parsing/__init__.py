"""From bytes to text with its structure: sniffing, one parser a media type, and the limited process
around them.
"""
