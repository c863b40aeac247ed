"""The words that questions are made of; each is one token of the simplified tokenizer."""

WORDS = """a the of in on and with by to his her their that who what where which woman man child saint angel king
    couch river garden table window church mountain horse dog boat bridge crowd light shadow sky landscape portrait
    painting image canvas scene figure colour hand face dress book flower fruit stone wall door left right behind
    beside between holding sitting standing looking wearing carrying painted shown seen stands sits holds looks red
    blue green golden dark bright old young small large early late""".split()
