package archive

import (
	"errors"
	"fmt"
	"strings"

	"filippo.io/age"
)

// RecipientKind says what can open an archive for these recipients: "x25519"
// (any age), "mlkem768x25519" (hybrid post-quantum, age 1.3 or later), or the
// lower-case stanza name of another age recipient, as in "ssh-ed25519". All
// recipients of an archive are of one kind; otherwise the error is
// [ErrMixedRecipients] and names the kinds.
func RecipientKind(recipients []age.Recipient) (string, error) {
	if len(recipients) == 0 {
		return "", errors.New("no recipient given: nobody could open the archive")
	}
	var kinds []string
	seen := map[string]bool{}
	for _, r := range recipients {
		kind, err := recipientKind(r)
		if err != nil {
			return "", err
		}
		if !seen[kind] {
			seen[kind] = true
			kinds = append(kinds, kind)
		}
	}
	if len(kinds) > 1 {
		return "", fmt.Errorf("%w: got %s; age refuses to put post-quantum and other recipients into one file",
			ErrMixedRecipients, strings.Join(kinds, " and "))
	}
	return kinds[0], nil
}

func recipientKind(r age.Recipient) (string, error) {
	switch r.(type) {
	case *age.X25519Recipient:
		return "x25519", nil
	case *age.HybridRecipient:
		return "mlkem768x25519", nil
	case *age.ScryptRecipient:
		return "scrypt", nil
	}
	// Recipients of other packages and plugins name their kind only in the
	// stanza that they make, so one is made for a throw-away key.
	stanzas, err := r.Wrap(make([]byte, 16))
	if err != nil {
		return "", fmt.Errorf("asking a recipient for its kind: %w", err)
	}
	if len(stanzas) == 0 {
		return "", errors.New("asking a recipient for its kind: it made no stanza")
	}
	return strings.ToLower(stanzas[0].Type), nil
}
