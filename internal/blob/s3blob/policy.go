package s3blob

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/problem"
)

// statement is one of a policy; the order of the fields is that of documents.
type statement struct {
	Sid       string         `json:"Sid"`
	Effect    string         `json:"Effect"`
	Principal string         `json:"Principal,omitempty"`
	Action    []string       `json:"Action"`
	Resource  []string       `json:"Resource"`
	Condition map[string]any `json:"Condition,omitempty"`
}

// Policy is the least that an identity for the role needs, as text: lines that
// begin with "#" say what the JSON document below them is and where it belongs.
// First comes the identity's own policy, and for a writer the bucket's.
func Policy(cfg Config, role blob.Role) (string, error) {
	objects := []string{cfg.arn("/" + cfg.Prefix + "*")}
	reading := []string{"s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectRetention", "s3:GetObjectLegalHold"}
	var own []statement
	allow := func(sid string, resource []string, actions ...string) {
		own = append(own, statement{Sid: sid, Effect: "Allow", Action: actions, Resource: resource})
	}
	deny := func(actions ...string) {
		own = append(own, statement{Sid: "NeverShortenOrDelete", Effect: "Deny", Action: actions, Resource: objects})
	}
	list := func() {
		s := statement{Sid: "List", Effect: "Allow", Action: []string{"s3:ListBucket", "s3:ListBucketVersions"}, Resource: []string{cfg.arn("")}}
		if cfg.Prefix != "" {
			s.Condition = map[string]any{"StringLike": map[string]any{"s3:prefix": []string{cfg.Prefix + "*"}}}
		}
		own = append(own, s)
	}
	switch role {
	case blob.Writer:
		actions := []string{"s3:PutObject", "s3:AbortMultipartUpload"}
		if cfg.Lock != "" {
			actions = append(actions, "s3:PutObjectRetention")
		}
		allow("PutAndNothingElse", objects, actions...)
		deny("s3:BypassGovernanceRetention", "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:PutObjectLegalHold")
	case blob.Restorer:
		list()
		allow("Read", objects, reading...)
		deny("s3:BypassGovernanceRetention", "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:PutObject")
	case blob.Pruner:
		list()
		allow("ReadAndDelete", objects, append(reading, "s3:DeleteObject", "s3:DeleteObjectVersion")...)
		deny("s3:BypassGovernanceRetention", "s3:PutObject", "s3:PutObjectRetention")
	default:
		return "", problem.New(problem.Usage, "no role is called %q", string(role)).WithHint("roles are writer, restorer and pruner")
	}
	if key := cfg.keyARN(); key != "" {
		s := statement{Sid: "Encryption", Effect: "Allow", Action: []string{"kms:Decrypt"}, Resource: []string{key}}
		if role == blob.Writer {
			// Decrypt is what an upload in parts needs to be put together.
			s.Action = []string{"kms:GenerateDataKey", "kms:Decrypt"}
		}
		own = append(own, s)
	}
	var b strings.Builder
	section(&b, fmt.Sprintf("policy of the identity that is the %s (attach it to its user or role)", role), map[string]any{"Version": "2012-10-17", "Statement": own})
	if role == blob.Writer {
		section(&b, "lifecycle rule of the bucket, which removes what interrupted uploads left\n(aws s3api put-bucket-lifecycle-configuration replaces all rules: add yours)", cfg.lifecycle())
		section(&b, "policy of the bucket, where the service knows these conditions (Amazon does): nobody\nhides an archive behind another, and nobody locks one for longer than you pay for", map[string]any{"Version": "2012-10-17", "Statement": cfg.guards(objects)})
	}
	return b.String(), nil
}

func section(b *strings.Builder, title string, doc any) {
	if b.Len() > 0 {
		b.WriteString("\n")
	}
	for line := range strings.SplitSeq(title, "\n") {
		b.WriteString("# " + line + "\n")
	}
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		panic(err) // maps of strings
	}
	b.Write(text)
	b.WriteString("\n")
}

// guards are what an identity's own policy cannot say, or what holds for all.
func (c Config) guards(objects []string) []statement {
	all := []statement{{
		Sid: "NoOverwriting", Effect: "Deny", Principal: "*", Action: []string{"s3:PutObject"}, Resource: objects,
		// Beginning an upload and its parts know no condition; its completion does.
		Condition: map[string]any{"Null": map[string]any{"s3:if-none-match": "true"}, "Bool": map[string]any{"s3:ObjectCreationOperation": "true"}},
	}}
	if c.Lock != "" {
		days := int(math.Ceil(c.Retain.Hours()/24)) + 1
		all = append(all, statement{
			Sid: "NoLongerLock", Effect: "Deny", Principal: "*", Action: []string{"s3:PutObjectRetention"}, Resource: objects,
			Condition: map[string]any{"NumericGreaterThan": map[string]any{"s3:object-lock-remaining-retention-days": fmt.Sprint(days)}},
		})
	}
	return all
}

func (c Config) lifecycle() any {
	const days = 3 // longer than any upload takes
	return map[string]any{"Rules": []any{map[string]any{
		"ID": "n8keep-abandoned-uploads", "Status": "Enabled", "Filter": map[string]any{"Prefix": c.Prefix},
		"AbortIncompleteMultipartUpload": map[string]any{"DaysAfterInitiation": days},
	}}}
}

func (c Config) partition() string {
	switch {
	case strings.HasPrefix(c.Region, "cn-"):
		return "aws-cn"
	case strings.HasPrefix(c.Region, "us-gov-"):
		return "aws-us-gov"
	}
	return "aws"
}

func (c Config) arn(resource string) string {
	return fmt.Sprintf("arn:%s:s3:::%s%s", c.partition(), c.Bucket, resource)
}

// keyARN is "" when the encryption needs no permission: the service's own keys
// and the account's default one.
func (c Config) keyARN() string {
	switch {
	case c.KMSKey == "" || strings.HasPrefix(c.KMSKey, "alias/aws/"):
		return ""
	case strings.HasPrefix(c.KMSKey, "arn:"):
		return c.KMSKey
	case strings.HasPrefix(c.KMSKey, "alias/"):
		return fmt.Sprintf("arn:%s:kms:*:*:key/*", c.partition()) // policies know keys, not aliases
	}
	return fmt.Sprintf("arn:%s:kms:*:*:key/%s", c.partition(), c.KMSKey)
}
