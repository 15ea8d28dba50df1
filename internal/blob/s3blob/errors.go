package s3blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/remote"
)

// do sends a request as often as its failures allow, and turns the last error
// into one for people.
func (s *Store) do(ctx context.Context, doing string, f func(attempt int) error) error {
	err := s.retry.Do(ctx, func(attempt int) error { return s.again(attempt, f(attempt)) })
	return s.explain(ctx, doing, err)
}

// request is do whose error is the service's own.
func (s *Store) request(ctx context.Context, send func() error) error {
	return s.retry.Do(ctx, func(attempt int) error { return s.again(attempt, send()) })
}

// unheard is how often a service is tried that never answered: its address is
// probably wrong, and people wait.
const unheard = 5

// again marks an error that is worth another attempt.
func (s *Store) again(attempt int, err error) error {
	if err == nil || !transient(err) || s.heard.Load() == 0 && attempt+1 >= unheard {
		return err
	}
	s.cfg.Logger.Debug("request to the target failed, trying again", "attempt", attempt+1, "error", s.brief(err))
	return remote.Again(err, retryAfter(err))
}

// code is the service's error code, "" when it did not answer with one.
func code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// status is the answer's HTTP status, 0 when there was no answer.
func status(err error) int {
	var resp *smithyhttp.ResponseError
	if errors.As(err, &resp) && resp.Response != nil {
		return resp.HTTPStatusCode()
	}
	return 0
}

// transient says that the same request may do better later.
func transient(err error) bool {
	switch code(err) {
	case "SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "RequestTimeTooSkewed", "ThrottlingException", "Throttling",
		"RequestLimitExceeded", "TooManyRequests", "BadDigest", "XAmzContentChecksumMismatch", "IncompleteBody", "ConditionalRequestConflict", "OperationAborted":
		return true
	}
	switch st := status(err); {
	case st == http.StatusTooManyRequests, st == http.StatusRequestTimeout, st >= 500 && st != http.StatusNotImplemented:
		return true
	case st != 0 && code(err) != "" && !unfinishedAnswer(err):
		return false
	}
	return unfinishedAnswer(err)
}

// unfinishedAnswer says that the connection failed, before, in or after the answer.
func unfinishedAnswer(err error) bool {
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.IsNotFound {
		return false
	}
	var netErr net.Error
	var urlErr *url.Error
	var send *smithyhttp.RequestSendError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNREFUSED),
		errors.As(err, &netErr):
		return true
	case errors.As(err, &send), errors.As(err, &urlErr):
		return !certificate(err)
	}
	return retry.RetryableConnectionError{}.IsErrorRetryable(err).Bool()
}

func certificate(err error) bool {
	return strings.Contains(err.Error(), "x509:") || strings.Contains(err.Error(), "tls: failed to verify")
}

func retryAfter(err error) time.Duration {
	var resp *smithyhttp.ResponseError
	if !errors.As(err, &resp) || resp.Response == nil {
		return 0
	}
	n, convErr := strconv.Atoi(resp.Response.Header.Get("Retry-After"))
	if convErr != nil || n < 0 || n > 600 {
		return 0
	}
	return time.Duration(n) * time.Second
}

// maybeStored says that a put which failed with err can have been stored all the
// same: the service may have done its work before the answer was lost.
func maybeStored(err error) bool {
	switch code(err) {
	case "SlowDown", "RequestTimeTooSkewed", "BadDigest", "XAmzContentChecksumMismatch", "IncompleteBody", "ConditionalRequestConflict", "OperationAborted":
		return false
	}
	return transient(err)
}

// missing says that there is no such object or version.
func missing(err error) bool {
	switch code(err) {
	case "NoSuchKey", "NoSuchVersion", "NotFound":
		return true
	case "NoSuchBucket":
		return false
	}
	return status(err) == http.StatusNotFound
}

// refused says that the identity may not do it.
func refused(err error) bool {
	switch code(err) {
	case "AccessDenied", "AllAccessDisabled", "UnauthorizedAccess", "Forbidden", "MethodNotAllowed", "ObjectLocked":
		return true
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "RequestTimeTooSkewed", "AccountProblem":
		return false
	}
	// A HEAD has no body that could name the code.
	return status(err) == http.StatusForbidden
}

func precondition(err error) bool {
	return code(err) == "PreconditionFailed" || status(err) == http.StatusPreconditionFailed
}

// brief is an error in one line, without what makes every one different.
func (s *Store) brief(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		text := api.ErrorCode()
		if m := clean(api.ErrorMessage()); m != "" && m != text {
			text += ": " + m
		}
		if st := status(err); st != 0 {
			text += fmt.Sprintf(" (%d)", st)
		}
		return text
	}
	var urlErr *url.Error
	if errors.As(err, &urlErr) {
		err = urlErr.Err // its text has the URL, with the request's signature
	}
	var netErr net.Error
	if errors.As(err, &netErr) && netErr.Timeout() {
		return "the connection stood still for " + s.cfg.Stall.String()
	}
	if st := status(err); st != 0 {
		return fmt.Sprintf("answer %d %s", st, http.StatusText(st))
	}
	for {
		var op *smithy.OperationError
		var send *smithyhttp.RequestSendError
		if errors.As(err, &op) {
			err = op.Err
		} else if errors.As(err, &send) {
			err = send.Err
		} else {
			return clean(err.Error())
		}
	}
}

// clean makes a remote text fit for a terminal and a log.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
	s = strings.TrimRight(strings.TrimSpace(s), ".")
	if r := []rune(s); len(r) > 300 {
		s = string(r[:300]) + "..."
	}
	return s
}

// explain makes an error for people. The end of the context and the errors of
// package blob pass through.
func (s *Store) explain(ctx context.Context, doing string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", doing, context.Cause(ctx))
	}
	var done *problem.Error
	for _, known := range []error{blob.ErrNotFound, blob.ErrExists, blob.ErrLocked} {
		if errors.Is(err, known) {
			return fmt.Errorf("%s: %w", doing, err)
		}
	}
	if errors.As(err, &done) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	var ours notService
	if errors.As(err, &ours) {
		return fmt.Errorf("%s: %w", doing, ours.error)
	}
	p := &problem.Error{Kind: problem.Unreachable, Msg: doing + ": " + s.brief(err), Err: err}
	switch c := code(err); {
	case c == "NoSuchBucket":
		p.Kind = problem.NotFound
		p.WithHint("make the bucket %q first, with versions and object lock if archives are to be locked; n8keep makes none", s.cfg.Bucket)
	case c == "InvalidAccessKeyId", c == "SignatureDoesNotMatch", c == "InvalidToken", c == "ExpiredToken":
		p.WithHint("the access key is wrong, or its secret, or it has expired; %s", whereSecrets)
	case c == "PermanentRedirect", c == "AuthorizationHeaderMalformed", c == "IllegalLocationConstraintException", status(err) == http.StatusMovedPermanently:
		if region := bucketRegion(err); region != "" {
			p.WithHint("the bucket is in region %q: add region=%s to the URL", region, region)
		} else {
			p.WithHint("the bucket is in another region: add region=... to the URL")
		}
	case c == "NotImplemented", status(err) == http.StatusNotImplemented:
		p.WithHint("n8keep needs a service that knows If-None-Match, and object lock if the URL asks for it")
	case strings.Contains(p.Msg, "ObjectLockConfiguration"), c == "InvalidBucketObjectLockConfiguration", c == "ObjectLockConfigurationNotFoundError":
		p.WithHint("the bucket was made without object lock; turn it on, or leave lock and retain out of the URL")
	case c == "RequestTimeTooSkewed":
		p.WithHint("the clock of this host is wrong; set it")
	case refused(err):
		p.WithHint(`see what this identity may do with "n8keep target check", and what it needs with "n8keep target policy"`)
	case certificate(err):
		p.WithHint("the certificate of the endpoint is not trusted here; for a private authority set AWS_CA_BUNDLE to its file")
	case strings.Contains(err.Error(), "failed to refresh cached credentials"), strings.Contains(err.Error(), "no EC2 IMDS role found"), strings.Contains(err.Error(), "get credentials"):
		p.Msg = doing + ": no credentials were found"
		p.WithHint("%s", whereSecrets)
	case code(err) == "" && status(err) == 0:
		p.WithHint("check the endpoint, the network and any proxy in between")
	}
	return p
}

func bucketRegion(err error) string {
	var resp *smithyhttp.ResponseError
	if errors.As(err, &resp) && resp.Response != nil {
		return clean(resp.Response.Header.Get("X-Amz-Bucket-Region"))
	}
	return ""
}

// notService wraps an error that the service has no part in, such as that of the
// reader which a put takes its content from.
type notService struct{ error }

func (n notService) Unwrap() error { return n.error }
