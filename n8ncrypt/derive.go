package n8ncrypt

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"unicode/utf16"
)

// InstanceID is n8n's instance id: the SHA-256 of the second half of the key in
// lower-case hex. It is public in n8n (telemetry, licence), so it must never
// stand in for a fingerprint. Overridden by N8N_INSTANCE_ID and, from n8n 2.18,
// by deployment_key. "" for the zero key, as for all functions here.
func (k InstanceKey) InstanceID() string {
	if k.IsZero() {
		return ""
	}
	units := k.units()
	return sha256Hex(fromUnits(units[(len(units)+1)/2:]))
}

// SigningJWT is the secret of sessions and API keys: the SHA-256 of every other
// UTF-16 unit of the key, the first one included, in lower-case hex. Overridden
// by N8N_USER_MANAGEMENT_JWT_SECRET and, from n8n 2.18, by deployment_key.
func (k InstanceKey) SigningJWT() string {
	if k.IsZero() {
		return ""
	}
	units := k.units()
	half := make([]uint16, 0, (len(units)+1)/2)
	for i := 0; i < len(units); i += 2 {
		half = append(half, units[i])
	}
	return sha256Hex(fromUnits(half))
}

// SigningHMAC is the secret of approval and resume URLs in lower-case hex, n8n
// >= 1.110. Overridden by N8N_HMAC_SIGNATURE_SECRET and, from n8n 2.18, by
// deployment_key.
func (k InstanceKey) SigningHMAC() string {
	if k.IsZero() {
		return ""
	}
	return sha256Hex("hmac-signature:" + k.secret().text)
}

// SigningBinaryData is the secret of binary data URLs in padded base64, n8n >=
// 1.94. Overridden by N8N_BINARY_DATA_SIGNING_SECRET and, from n8n 2.18, by
// deployment_key.
func (k InstanceKey) SigningBinaryData() string {
	if k.IsZero() {
		return ""
	}
	sum := sha256.Sum256([]byte("url-signing:" + k.secret().text))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// TelegramWebhookSecret is the secret of a Telegram agent's webhook in
// lower-case hex, n8n >= 2.22. Nothing overrides it.
func (k InstanceKey) TelegramWebhookSecret(agentID, credentialID string) string {
	if k.IsZero() {
		return ""
	}
	mac := hmac.New(sha256.New, []byte(k.secret().text))
	mac.Write([]byte("telegram:" + agentID + ":" + credentialID))
	return hex.EncodeToString(mac.Sum(nil))
}

// WrapKey is the key of the instance-key wrap in lower-case hex, n8n >= 2.20.
// It opens every wrapped row and is as secret as the instance key.
func (k InstanceKey) WrapKey() string {
	if k.IsZero() {
		return ""
	}
	return hex.EncodeToString(k.wrapKey()[:])
}

func (k InstanceKey) units() []uint16 { return utf16.Encode([]rune(k.secret().text)) }

// fromUnits encodes as Node does: half a surrogate pair, which slicing by units
// can leave, becomes U+FFFD.
func fromUnits(units []uint16) string { return string(utf16.Decode(units)) }

func sha256Hex(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
