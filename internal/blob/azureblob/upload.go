package azureblob

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	azblob "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/remote"
)

// Azure's limits for a block blob and for a blob that is sent in one request.
const (
	maxBlocks = 50_000
	maxWhole  = 5000 << 20
)

// tokenKey is the metadata by which an upload recognises its own blob.
const tokenKey = "n8keepupload"

// upload is one Put.
type upload struct {
	s       *Store
	name    string
	blob    *blockblob.Client
	token   string
	ids     []string // of the staged blocks
	size    int64
	retain  time.Duration
	until   time.Time // of the immutability policy; zero for none
	unheard bool      // what makes the blob visible was sent, and no answer heard
}

func (s *Store) put(ctx context.Context, name string, r io.Reader, retain time.Duration) (version, error) {
	if err := ctx.Err(); err != nil {
		return version{}, context.Cause(ctx)
	}
	u := &upload{s: s, name: name, blob: s.client.NewBlockBlobClient(s.cfg.Prefix + name), token: rand.Text(), retain: retain}
	chunks := remote.NewChunks(ctx, r, s.cfg.BlockSize)
	defer chunks.Close()
	first := chunks.Next(ctx)
	if first.Err != nil {
		return version{}, first.Err
	}
	if first.Last {
		return u.whole(ctx, int64(len(first.Data)), func() io.ReadSeeker { return bytes.NewReader(first.Data) })
	}
	err := u.stage(ctx, first.Data)
	if isCode(err, "AuthorizationPermissionMismatch", "AuthorizationFailure", "InsufficientAccountPermissions") {
		return u.spool(ctx, first, chunks)
	}
	for c := first; err == nil && !c.Last; {
		chunks.Free(c)
		if c = chunks.Next(ctx); c.Err != nil {
			return version{}, c.Err
		}
		err = u.stage(ctx, c.Data)
	}
	if err != nil {
		return version{}, u.explain(err)
	}
	return u.commit(ctx)
}

// explain: an identity that may only create is told so when the blob is there.
func (u *upload) explain(err error) error {
	if isCode(err, "UnauthorizedBlobOverwrite", "BlobImmutableDueToPolicy") {
		return blob.ErrExists
	}
	return err
}

// stage sends one block. Sent twice it is still one.
func (u *upload) stage(ctx context.Context, data []byte) error {
	if len(u.ids) == maxBlocks {
		return &apiError{Code: codeTooLarge, Message: fmt.Sprintf("it has more than %d bytes, the most that Azure takes in blocks of %d", u.size, u.s.cfg.BlockSize)}
	}
	// All ids of a blob must have one length. The token keeps writers of one name apart.
	id := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%s-%06d", u.token, len(u.ids)))
	err := u.s.try(ctx, blockTimeout, func(ctx context.Context, _ int) error {
		_, err := u.blob.StageBlock(ctx, id, streaming.NopCloser(bytes.NewReader(data)), &blockblob.StageBlockOptions{
			TransactionalValidation: azblob.TransferValidationTypeComputeCRC64(),
		})
		return err
	})
	if err == nil {
		u.ids = append(u.ids, id)
		u.size += int64(len(data))
	}
	return err
}

// lock is the policy that goes along with the blob, by the server's clock: with
// ours a wrong clock would shorten it.
func (u *upload) lock(ctx context.Context) (*azblob.ImmutabilityPolicySetting, *time.Time, error) {
	if u.retain == 0 {
		return nil, nil, nil
	}
	now, err := u.s.Clock(ctx)
	if err != nil {
		return nil, nil, err
	}
	mode := azblob.ImmutabilityPolicySettingLocked
	if u.s.cfg.Lock == "governance" {
		mode = azblob.ImmutabilityPolicySettingUnlocked
	}
	u.until = now.Add(u.retain).UTC().Truncate(time.Second)
	return &mode, &u.until, nil
}

func ifNew() *azblob.AccessConditions {
	any := azcore.ETagAny
	return &azblob.AccessConditions{ModifiedAccessConditions: &azblob.ModifiedAccessConditions{IfNoneMatch: &any}}
}

func (u *upload) tier() *azblob.AccessTier {
	for _, t := range azblob.PossibleAccessTierValues() {
		if u.s.cfg.Tier != "" && strings.EqualFold(string(t), u.s.cfg.Tier) {
			return &t
		}
	}
	return nil
}

// commit makes the staged blocks a blob.
func (u *upload) commit(ctx context.Context) (version, error) {
	mode, until, err := u.lock(ctx)
	if err != nil {
		return version{}, err
	}
	var resp blockblob.CommitBlockListResponse
	err = u.s.try(ctx, callTimeout, func(ctx context.Context, _ int) (err error) {
		resp, err = u.blob.CommitBlockList(ctx, u.ids, &blockblob.CommitBlockListOptions{
			AccessConditions: ifNew(), Metadata: map[string]*string{tokenKey: &u.token}, Tier: u.tier(),
			ImmutabilityPolicyMode: mode, ImmutabilityPolicyExpiryTime: until,
		})
		return u.heard(err)
	})
	return u.settle(ctx, version{etag: resp.ETag, id: text(resp.VersionID), time: at(resp.LastModified)}, err)
}

// whole sends the content in the request that makes the blob. Creating is all that
// it needs to be allowed.
func (u *upload) whole(ctx context.Context, size int64, content func() io.ReadSeeker) (version, error) {
	u.size = size
	mode, until, err := u.lock(ctx)
	if err != nil {
		return version{}, err
	}
	limit := blockTimeout + time.Duration(size/30_000)*time.Second
	var resp blockblob.UploadResponse
	err = u.s.try(ctx, limit, func(ctx context.Context, _ int) (err error) {
		resp, err = u.blob.Upload(ctx, streaming.NopCloser(content()), &blockblob.UploadOptions{
			AccessConditions: ifNew(), Metadata: map[string]*string{tokenKey: &u.token}, Tier: u.tier(),
			ImmutabilityPolicyMode: mode, ImmutabilityPolicyExpiryTime: until,
		})
		return u.heard(err)
	})
	return u.settle(ctx, version{etag: resp.ETag, id: text(resp.VersionID), time: at(resp.LastModified)}, err)
}

// spool keeps the stream in a file, which has no name and so leaves nothing behind,
// until its length is known.
func (u *upload) spool(ctx context.Context, first remote.Chunk, chunks *remote.Chunks) (version, error) {
	f, err := os.CreateTemp(u.s.cfg.Spool, ".n8keep-tmp-azure-*")
	if err != nil {
		return version{}, fmt.Errorf("making a temporary file: %w", err)
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return version{}, fmt.Errorf("making a temporary file: %w", err)
	}
	size := int64(0)
	for c := first; ; c = chunks.Next(ctx) {
		if c.Err != nil {
			return version{}, c.Err
		}
		if size += int64(len(c.Data)); size > maxWhole {
			return version{}, &apiError{
				Code: codeTooLarge, Message: "it has more than 5000 MiB, the most that Azure takes from an identity which may only create",
				hint: "give the shared access signature the permission write too (sp=cw), and retain and lock so that it can change nothing: see n8keep target policy",
			}
		}
		if _, err := f.Write(c.Data); err != nil {
			return version{}, fmt.Errorf("writing a temporary file: %w", err)
		}
		if c.Last {
			break
		}
		chunks.Free(c)
	}
	return u.whole(ctx, size, func() io.ReadSeeker { return io.NewSectionReader(f, 0, size) })
}

// heard notes that a request which makes the blob visible may have done so.
func (u *upload) heard(err error) error {
	err = u.s.classify(err)
	u.unheard = u.unheard || remote.IsAgain(err)
	return err
}

// settle says what the answer to the last request means; v is what it told.
func (u *upload) settle(ctx context.Context, v version, err error) (version, error) {
	v.full, v.size, v.locked, v.current = u.s.cfg.Prefix+u.name, u.size, u.until, true
	if err == nil {
		return v, nil
	}
	// Blocks vanish when somebody commits others, or the same, under the name; and some
	// services refuse whoever may only create without saying that it is the overwriting.
	taken := isStatus(err, http.StatusPreconditionFailed) || isCode(err, "BlobAlreadyExists", "BlobImmutableDueToPolicy", "UnauthorizedBlobOverwrite")
	perhaps := isCode(err, "InvalidBlockList", "AuthorizationPermissionMismatch")
	switch {
	case !taken && !perhaps:
		return version{}, err
	case taken && !u.unheard:
		return version{}, blob.ErrExists
	}
	live, lookErr := u.s.live(ctx, u.name)
	switch {
	case lookErr == nil && live.token == u.token:
		return live, nil
	case lookErr == nil:
		return version{}, blob.ErrExists
	case isStatus(lookErr, http.StatusForbidden) && u.unheard && perhaps:
		// The blocks are in the blob, or were discarded; the identity may not overwrite, or
		// never was allowed to create: only who may look can tell.
		p := problem.New(problem.Unreachable, "an answer was lost, the next request was refused, and this identity may not look: it is not known whether the blob is stored")
		p.Err = err
		return version{}, p.WithHint("look for it with an identity that may read (a restorer's), and run the backup again")
	case isStatus(lookErr, http.StatusForbidden) && u.unheard:
		// Nobody else uses our names: it was our own request that was carried out.
		if v.time, lookErr = u.s.Clock(ctx); lookErr != nil {
			v.time = u.s.cfg.Now()
		}
		return v, nil
	case errors.Is(lookErr, blob.ErrNotFound), isStatus(lookErr, http.StatusForbidden):
		return version{}, err
	}
	return version{}, lookErr
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func at(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}
