"""What an auditor uses: it trusts nobody's word, needs no secret and no service, and can be used alone."""
