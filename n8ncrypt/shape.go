package n8ncrypt

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// Shape is what a plaintext must look like to count as opened. The zero Shape
// accepts nothing, so that a forgotten one cannot prove a key.
type Shape uint8

const (
	// ShapeAny accepts every plaintext, also the empty one. With CBC one wrong
	// key in 255 "opens".
	ShapeAny Shape = iota + 1
	// ShapeText is non-empty valid UTF-8: LDAP password, OIDC client secret,
	// git user name, token.
	ShapeText
	// ShapeJSONObject is one JSON object: credentials, resolvers, contexts.
	ShapeJSONObject
	// ShapeJSON is one JSON value of any kind.
	ShapeJSON
	// ShapePEM is a PEM block or OpenSSH private key.
	ShapePEM
	// ShapeBase32 is an MFA secret: at least 16 characters of A-Z and 2-7.
	ShapeBase32
	// ShapeUUID is an MFA recovery code, 8-4-4-4-12 hexadecimal digits.
	ShapeUUID
	// ShapeHexKey is a data key: 64 hexadecimal digits.
	ShapeHexKey
)

// String returns a constant lower-case name such as "json-object".
func (s Shape) String() string {
	switch s {
	case ShapeAny:
		return "any"
	case ShapeText:
		return "text"
	case ShapeJSONObject:
		return "json-object"
	case ShapeJSON:
		return "json"
	case ShapePEM:
		return "pem"
	case ShapeBase32:
		return "base32"
	case ShapeUUID:
		return "uuid"
	case ShapeHexKey:
		return "hex-key"
	default:
		return "unset"
	}
}

// Check reports whether plaintext has the shape. Everything but ShapeAny wants
// valid UTF-8, which is all that n8n encrypts.
func (s Shape) Check(plaintext []byte) bool {
	if s == ShapeAny {
		return true
	}
	if len(plaintext) == 0 || !utf8.Valid(plaintext) {
		return false
	}
	switch s {
	case ShapeText:
		return true
	case ShapeJSONObject:
		t := bytes.TrimLeft(plaintext, " \t\r\n")
		return len(t) > 0 && t[0] == '{' && json.Valid(plaintext)
	case ShapeJSON:
		return json.Valid(plaintext)
	case ShapePEM:
		return isPEM(plaintext)
	case ShapeBase32:
		return isBase32(plaintext)
	case ShapeUUID:
		return isUUID(plaintext)
	case ShapeHexKey:
		return isHex64(string(plaintext))
	default:
		return false
	}
}

// isPEM looks at the armour only: n8n takes keys that people pasted, with odd
// line breaks inside.
func isPEM(b []byte) bool {
	b = bytes.TrimSpace(b)
	return bytes.HasPrefix(b, []byte("-----BEGIN ")) &&
		bytes.HasSuffix(b, []byte("-----")) && bytes.Contains(b, []byte("-----END "))
}

func isBase32(b []byte) bool {
	b = bytes.TrimRight(b, "=")
	if len(b) < 16 {
		return false
	}
	for _, c := range b {
		if (c < 'A' || c > 'Z') && (c < '2' || c > '7') {
			return false
		}
	}
	return true
}

func isUUID(b []byte) bool {
	if len(b) != 36 {
		return false
	}
	for i, c := range b {
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
				return false
			}
		}
	}
	return true
}
