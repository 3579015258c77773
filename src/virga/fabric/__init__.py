"""Controller and host talking: frames, links, outbox delivery, fact intake."""
