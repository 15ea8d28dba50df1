package cloudtest

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
)

// AzureAccount is the account of the test server.
const AzureAccount = "n8keeptest"

var (
	azurite  server
	azureKey = base64.StdEncoding.EncodeToString([]byte(rand.Text() + rand.Text()))
)

// Azure is a container of an Azurite behind a front. It checks signatures, the
// permissions of shared access signatures, and conditions; it knows no versions,
// takes immutability policies along with a blob without keeping them, and answers
// 501 to their change.
type Azure struct {
	*Front
	Container string
	Key       string // of the account
	cred      *container.SharedKeyCredential
}

// NewAzure makes an empty container. The front's URL goes on with the account's name.
func NewAzure(t testing.TB) *Azure {
	t.Helper()
	azurite.once.Do(func() {
		azurite.start("azurite", []string{"AZURITE_ACCOUNTS=" + AzureAccount + ":" + azureKey}, func(port string) []string {
			return []string{"--blobHost", "127.0.0.1", "--blobPort", port, "--inMemoryPersistence", "--skipApiVersionCheck", "--silent", "--disableTelemetry"}
		})
	})
	must(t, azurite.err)
	a := &Azure{Front: NewFront(t, azurite.url), Container: fmt.Sprintf("c%d", time.Now().UnixNano()), Key: azureKey}
	a.URL += "/" + AzureAccount
	var err error
	a.cred, err = container.NewSharedKeyCredential(AzureAccount, a.Key)
	must(t, err)
	c, err := container.NewClientWithSharedKeyCredential(azurite.url+"/"+AzureAccount+"/"+a.Container, a.cred, nil)
	must(t, err)
	_, err = c.Create(context.Background(), nil)
	must(t, err)
	return a
}

// SAS is a signature for the container with permissions as in "rcwdl", valid from
// an hour ago for the given time.
func (a *Azure) SAS(t testing.TB, permissions string, valid time.Duration) string {
	t.Helper()
	now := time.Now().UTC()
	v := sas.BlobSignatureValues{
		Protocol: sas.ProtocolHTTPSandHTTP, ContainerName: a.Container, Permissions: permissions,
		StartTime: now.Add(-48 * time.Hour), ExpiryTime: now.Add(valid),
	}
	q, err := v.SignWithSharedKey(a.cred)
	must(t, err)
	return q.Encode()
}

// Operation names what a request asks of Azure: "put blob", "put block", "put block
// list", "get", "head", "list", "delete", or the method.
func Operation(r *http.Request) string {
	comp := r.URL.Query().Get("comp")
	switch {
	case comp == "block":
		return "put block"
	case comp == "blocklist":
		return "put block list"
	case comp == "list":
		return "list"
	case r.Method == http.MethodPut && comp == "":
		return "put blob"
	}
	return strings.ToLower(r.Method)
}
