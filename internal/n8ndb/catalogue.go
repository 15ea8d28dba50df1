package n8ndb

import (
	"slices"

	"github.com/n8keep/n8keep/n8ncrypt"
)

// PlaceID names a place: "credentials_entity.data", or with the selected row and
// member, "settings[features.oidc].clientSecret". It is stored in manifests and
// never changes.
type PlaceID string

// Container says how the values of a place sit in their column.
type Container string

const (
	Whole   Container = "whole"   // the column is the value
	List    Container = "list"    // comma-joined values (TypeORM's simple-array)
	JSON    Container = "json"    // the member Path of a JSON object
	Flatted Container = "flatted" // every member named Path in flatted JSON, see flatted.go
	Bundle  Container = "bundle"  // as Flatted, in the member "data" of a file
)

// Encoding is the set of formats that n8n has written to a place.
type Encoding string

const (
	V2     Encoding = "v2"     // CBC, or from 2.18 a data key's id and GCM
	Wrap   Encoding = "wrap"   // GCM under the instance key from 2.20, CBC in 2.19, before and by accident in clear
	Pinned Encoding = "pinned" // in clear while the column algorithm is NULL, wrapped after (2.39)
	Clear  Encoding = "clear"  // always in clear
)

// Place is where n8n keeps one kind of secret.
type Place struct {
	ID        PlaceID
	Number    int    // row of the catalogue, 1 to 24; several places may share one
	Table     string // without prefix; "" for files
	Column    string
	Key       string // settings.key or deployment_key.type of the rows, "" for all
	Algorithm string // deployment_key.algorithm of the rows, "" for any
	Container Container
	Path      string // JSON member or members
	Encoding  Encoding
	Shape     n8ncrypt.Shape
	Since     string // first n8n version known to have it
	Until     string // last one, "" if still there
	// Enterprise places exist only where a licence was.
	Enterprise bool
	Note       string
}

const (
	anyText = n8ncrypt.ShapeText
	object  = n8ncrypt.ShapeJSONObject
	anyJSON = n8ncrypt.ShapeJSON
	pem     = n8ncrypt.ShapePEM
	base32  = n8ncrypt.ShapeBase32
	uuid    = n8ncrypt.ShapeUUID
	hexKey  = n8ncrypt.ShapeHexKey
)

// Catalogue returns every place in the order of a census. The caller owns the slice.
func Catalogue() []Place {
	const (
		ee       = true
		free     = false
		settings = "settings"
		keys     = "deployment_key"
		data     = "data_encryption"
		sshKeys  = "features.sourceControl.sshKeys"
		https    = "features.sourceControl.httpsCredentials"
		bundle   = "workflows/*/executions/*/execution_data/bundle.json"
	)
	list := []Place{
		// no, table, column, key, algorithm, container, path, encoding, shape, since, until, licence, note
		{"", 1, "credentials_entity", "data", "", "", Whole, "", V2, object, "0.1", "", free, ""},
		{"", 2, "user", "mfaSecret", "", "", Whole, "", V2, base32, "1.1", "", free, "set while MFA is only being set up, too"},
		{"", 3, "user", "mfaRecoveryCodes", "", "", List, "", V2, uuid, "1.1", "", free, "one secret per code, row userId#n"},
		{"", 4, settings, "value", "features.ldap", "", JSON, "bindingAdminPassword", V2, anyText, "1.0", "", ee, "'' in every database by migration"},
		{"", 5, settings, "value", "feature.externalSecrets", "", Whole, "", V2, object, "1.1", "", ee, "kept after its move to place 6"},
		{"", 6, "secrets_provider_connection", "encryptedSettings", "", "", Whole, "", V2, object, "2.7.5", "", ee, ""},
		{"", 7, settings, "value", sshKeys, "", JSON, "encryptedPrivateKey", V2, pem, "1.41.1", "", ee, "made by itself at first start of 1.123 and 2.0"},
		{"", 8, settings, "value", https, "", JSON, "encryptedUsername", V2, anyText, "1.114", "", ee, ""},
		{"", 8, settings, "value", https, "", JSON, "encryptedPassword", V2, anyText, "1.114", "", ee, ""},
		{"", 9, settings, "value", "features.oidc", "", JSON, "clientSecret", V2, anyText, "1.100.1", "", ee, ""},
		{"", 10, settings, "value", "features.saml", "", JSON, "signingPrivateKey", V2, pem, "2.14.2", "", ee, ""},
		{"", 11, settings, "value", "credentialsOverwrite", "", Whole, "", V2, object, "1.114", "", free, "with CREDENTIALS_OVERWRITE_PERSISTENCE"},
		{"", 12, "dynamic_credential_resolver", "config", "", "", Whole, "", V2, object, "2.1.4", "", ee, ""},
		{"", 13, "dynamic_credential_entry", "data", "", "", Whole, "", V2, object, "2.1.4", "", ee, "row credential_id/subject_id/resolver_id"},
		{"", 14, "dynamic_credential_user_entry", "data", "", "", Whole, "", V2, object, "2.6.4", "", ee, "row credentialId/userId/resolverId"},
		{"", 15, "git_connection", "encryptedPrivateKey", "", "", Whole, "", V2, pem, "2.37.0", "2.39", ee, ""},
		{"", 15, "git_connection", "encryptedUsername", "", "", Whole, "", V2, anyText, "2.37.0", "2.39", ee, ""},
		{"", 15, "git_connection", "encryptedPassword", "", "", Whole, "", V2, anyText, "2.37.0", "2.39", ee, ""},
		{"", 16, "promotion_provider", "auth", "", "", Whole, "", V2, object, "2.40.0", "", ee, ""},
		{"", 17, "execution_data", "data", "", "", Flatted, "credentials", V2, object, "1.123", "", free, "of an execution context; row executionId#element"},
		{"", 17, "execution_data", "data", "", "", Flatted, "secureArtifacts", V2, anyJSON, "2.22.0", "", free, "of an execution context"},
		{"", 17, "execution_data", "data", "", "", Flatted, "encryptedMetadata", V2, anyJSON, "2.6.4", "", free, "of a chat hub message on the node stack"},
		{"", 18, "", bundle, "", "", Bundle, "credentials", V2, object, "2.6.4", "", free, "N8N_EXECUTION_DATA_STORAGE_MODE; s3 and az are not read"},
		{"", 18, "", bundle, "", "", Bundle, "secureArtifacts", V2, anyJSON, "2.22.0", "", free, ""},
		{"", 18, "", bundle, "", "", Bundle, "encryptedMetadata", V2, anyJSON, "2.6.4", "", free, ""},
		{"", 19, keys, "value", data, "aes-256-gcm", Whole, "", Wrap, hexKey, "2.18", "", free, "raw hex in 2.18; inactive ones still open old values"},
		{"", 20, keys, "value", data, "aes-256-cbc", Whole, "", Wrap, anyText, "2.18", "", free, "the instance key itself; duplicates exist"},
		{"", 21, keys, "value", "signing.jwt", "", Whole, "", Pinned, anyText, "2.18", "", free, ""},
		{"", 21, keys, "value", "signing.hmac", "", Whole, "", Pinned, anyText, "2.18", "", free, ""},
		{"", 21, keys, "value", "signing.binary_data", "", Whole, "", Pinned, anyText, "2.18", "", free, ""},
		{"", 22, keys, "value", "instance.id", "", Whole, "", Clear, anyText, "2.18", "", free, ""},
		{"", 23, keys, "value", "jwe.private-key", "", Whole, "", Wrap, object, "2.20.0", "", free, "CBC until 2.40; N8N_ENV_FEAT_OAUTH2_JWE"},
		{"", 24, keys, "value", "oauth-server.signing-key", "", Whole, "", Wrap, anyText, "3.0", "", free, "announced, not seen in 2.41"},
	}
	for i := range list {
		list[i].ID = placeID(list[i])
	}
	return slices.Clip(list)
}

func placeID(p Place) PlaceID {
	switch p.Container {
	case Flatted:
		return PlaceID(p.Table + "." + p.Column + "[" + p.Path + "]")
	case Bundle:
		return PlaceID("bundle.json[" + p.Path + "]")
	}
	id := p.Table
	switch {
	case p.Algorithm != "":
		id += "[" + p.Key + "/" + p.Algorithm + "]"
	case p.Key != "":
		id += "[" + p.Key + "]"
	default:
		return PlaceID(id + "." + p.Column)
	}
	if p.Path != "" {
		id += "." + p.Path
	}
	return PlaceID(id)
}
