// Package quota is a client of Tollgate, the quota service for LLM gateways.
//
// A [Reservation] makes its own id. Left before its dispatch it is released; left after it without a Settle it is
// kept and logged, since the request may have run.
package quota

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "tollgate/quota/internal/tollgatev1"
)

// DefaultTimeout bounds a call with all its attempts, unless WithTimeout sets another one.
const DefaultTimeout = 2 * time.Second

// How long Close waits for releases in the background.
const closeTimeout = time.Second

// Until a Release of unknown outcome is asked again; each later pause is twice as long.
const firstPause = 250 * time.Millisecond

//go:embed service-config.json
var serviceConfig string

var addressFormat = regexp.MustCompile(`^unix:.|^[^/]*:\d+$`)

// Client is a client of a Tollgate service, for any number of goroutines.
type Client struct {
	service pb.QuotaServiceClient
	conn    *grpc.ClientConn
	options options
	// The releases in the background, which stop ends.
	background sync.WaitGroup
	stopped    context.Context
	stop       context.CancelFunc
}

type options struct {
	org, project string
	token        func() string
	tls          *tls.Config
	timeout      time.Duration
	logger       *slog.Logger
	dial         []grpc.DialOption
}

// Option sets something of a Client.
type Option func(*options)

// WithOrg sets the organization of calls that name none.
func WithOrg(org string) Option { return func(o *options) { o.org = org } }

// WithProject sets the project of reservations that name none.
func WithProject(project string) Option { return func(o *options) { o.project = project } }

// WithToken sets a function that returns the caller's present bearer token.
func WithToken(token func() string) Option { return func(o *options) { o.token = token } }

// WithTLS uses TLS, with client certificates if the configuration has any.
func WithTLS(config *tls.Config) Option { return func(o *options) { o.tls = config } }

// WithTimeout bounds each call whose context has no earlier deadline.
func WithTimeout(timeout time.Duration) Option { return func(o *options) { o.timeout = timeout } }

// WithLogger logs there what was kept, and what could not be released.
func WithLogger(logger *slog.Logger) Option { return func(o *options) { o.logger = logger } }

// WithDialOptions adds options of the connection.
func WithDialOptions(dial ...grpc.DialOption) Option {
	return func(o *options) { o.dial = append(o.dial, dial...) }
}

// New makes a client of the service at an address, HOST:PORT or unix:PATH. It connects with the first call. It fails
// for an address without a port, and for a token that would be sent in clear beyond this machine.
func New(address string, set ...Option) (*Client, error) {
	options := options{timeout: DefaultTimeout, logger: slog.Default()}
	for _, option := range set {
		option(&options)
	}
	if !addressFormat.MatchString(address) {
		return nil, fmt.Errorf("address: %q is neither HOST:PORT nor unix:PATH", address)
	}
	local := isLocal(address)
	if options.token != nil && options.tls == nil && !local {
		return nil, fmt.Errorf("token: it would be sent in clear to %s; use WithTLS", address)
	}
	dial := []grpc.DialOption{
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
	}
	if options.tls != nil {
		dial = append(dial, grpc.WithTransportCredentials(credentials.NewTLS(options.tls)))
	}
	if local {
		// A proxy would make this machine's name mean another machine.
		dial = append(dial, grpc.WithNoProxy())
	}
	if options.token != nil {
		dial = append(dial, grpc.WithPerRPCCredentials(bearer(options.token)))
	}
	conn, err := grpc.NewClient(address, append(dial, options.dial...)...)
	if err != nil {
		return nil, fmt.Errorf("address: %w", err)
	}
	stopped, stop := context.WithCancel(context.Background())
	return &Client{
		service: pb.NewQuotaServiceClient(conn), conn: conn, options: options, stopped: stopped, stop: stop,
	}, nil
}

func isLocal(address string) bool {
	if strings.HasPrefix(address, "unix:") {
		return true
	}
	host, _, _ := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

type bearer func() string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	// A file's last line has an end.
	token := strings.TrimSpace(b())
	if strings.ContainsFunc(token, func(r rune) bool { return r < ' ' || r > '~' }) {
		return nil, status.Error(codes.Unauthenticated,
			"token: it holds a control character, or one that is not ASCII")
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

// New has checked it: on this machine a token may be sent in clear.
func (bearer) RequireTransportSecurity() bool { return false }

// Close waits up to a second for releases in the background, and closes the connection. What could not be released is
// logged.
func (c *Client) Close() error {
	timer := time.AfterFunc(closeTimeout, c.stop)
	c.background.Wait()
	timer.Stop()
	c.stop()
	return c.conn.Close()
}

// Request is a request that a gateway is about to dispatch.
type Request struct {
	Model string
	// The most tokens that it may use, input and output together.
	Tokens uint64
	// Empty: the client's.
	Org, Project string
	// Unspecified counts as inference.
	Workload Workload
}

func (c *Client) reserveRequest(r Request) *pb.ReserveRequest {
	return &pb.ReserveRequest{
		Org:      or(r.Org, c.options.org),
		Project:  or(r.Project, c.options.project),
		Model:    r.Model,
		Tokens:   r.Tokens,
		Workload: pb.Workload(r.Workload),
	}
}

func or(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

// Reserve decides whether a request is free or billed, and counts it as that, under a new id. If the outcome is
// unknown, also since ctx was cancelled, it fails, and releases the reservation in the background.
func (c *Client) Reserve(ctx context.Context, request Request) (*Reservation, error) {
	message := c.reserveRequest(request)
	message.RequestId = rand.Text()
	answer, err := call(ctx, c, c.service.Reserve, message)
	if err != nil {
		var failed *Error
		if errors.As(err, &failed) && failed.OutcomeUnknown() {
			c.releaseInBackground(ctx, message.Org, message.RequestId)
		}
		return nil, err
	}
	return &Reservation{
		ID: message.RequestId, Org: message.Org, Tokens: request.Tokens,
		Decision: decision(answer), client: c,
	}, nil
}

func (c *Client) releaseInBackground(ctx context.Context, org, id string) {
	c.background.Add(1)
	go func() {
		defer c.background.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.options.timeout)
		defer cancel()
		defer context.AfterFunc(c.stopped, cancel)()
		end, _ := ctx.Deadline()
		for pause := firstPause; ; pause *= 2 {
			_, err := c.Release(ctx, org, id)
			if err == nil {
				return
			}
			// NotFound: it never counted, or the Reserve is still on its way.
			if status.Code(err) != codes.NotFound || time.Until(end) <= pause {
				c.logFailedRelease(ctx, org, id, err)
				return
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
		}
	}()
}

func (c *Client) logFailedRelease(ctx context.Context, org, id string, err error) {
	c.options.logger.WarnContext(ctx,
		"a reservation could not be released, and may stay counted until midnight",
		"org", org, "request_id", id, "error", err)
}

// DryRun returns the answer that Reserve would get now. It counts nothing.
func (c *Client) DryRun(ctx context.Context, request Request) (Decision, error) {
	message := c.reserveRequest(request)
	message.DryRun = true
	answer, err := call(ctx, c, c.service.Reserve, message)
	return decision(answer), err
}

// Settle settles a reservation by its id, also one of another process. An empty org is the client's.
func (c *Client) Settle(ctx context.Context, org, id string, tokens uint64, outside bool) (Settlement, error) {
	answer, err := call(ctx, c, c.service.Settle, &pb.SettleRequest{
		Org: or(org, c.options.org), RequestId: id, Tokens: tokens, OutsideProgram: outside,
	})
	return settlement(answer), err
}

// Release releases a reservation by its id, also one of another process. An empty org is the client's.
func (c *Client) Release(ctx context.Context, org, id string) (ReleaseResult, error) {
	answer, err := call(ctx, c, c.service.Release, &pb.ReleaseRequest{Org: or(org, c.options.org), RequestId: id})
	return released(answer), err
}

// Estimate returns an upper bound on the tokens of a request to the provider, by its path and body. It counts
// nothing. An empty model is the body's.
func (c *Client) Estimate(ctx context.Context, path string, body []byte, model string) (Estimate, error) {
	answer, err := call(ctx, c, c.service.Estimate, &pb.EstimateRequest{Path: path, Body: body, Model: model})
	return estimate(answer), err
}

// Quota returns what remains today. An empty org is the client's.
func (c *Client) Quota(ctx context.Context, org string) (Quota, error) {
	answer, err := call(ctx, c, c.service.GetQuota, &pb.GetQuotaRequest{Org: or(org, c.options.org)})
	return quota(answer), err
}

// Usage returns a UTC day's usage by project and model; today's, if the day is empty. It reads all pages.
func (c *Client) Usage(ctx context.Context, org, day string) (Usage, error) {
	return c.allUsage(ctx, &pb.ListUsageRequest{Org: or(org, c.options.org), Day: day})
}

// UsageRange returns the usage by day, project and model from one UTC day to another one, at most 62 days; to today, if
// toDay is empty. It reads all pages.
func (c *Client) UsageRange(ctx context.Context, org, fromDay, toDay string) (Usage, error) {
	return c.allUsage(ctx, &pb.ListUsageRequest{Org: or(org, c.options.org), FromDay: fromDay, ToDay: toDay})
}

func (c *Client) allUsage(ctx context.Context, message *pb.ListUsageRequest) (Usage, error) {
	var usage Usage
	message.PageSize = 1_000
	for {
		page, err := call(ctx, c, c.service.ListUsage, message)
		if err != nil {
			return Usage{}, err
		}
		if message.FromDay+message.ToDay != "" && page.FromDay == "" {
			// It takes a range for today.
			return Usage{}, &Error{codes.Unimplemented, "the service is of an earlier release, which lists no ranges of days"}
		}
		usage.Day, usage.FromDay, usage.ToDay = page.Day, page.FromDay, page.ToDay
		usage.Rows = append(usage.Rows, usageRows(page)...)
		if page.NextPageToken == "" {
			return usage, nil
		}
		// The token of a single day holds for that day only.
		message.Day, message.PageToken = page.Day, page.NextPageToken
	}
}

type method[Q, A any] func(context.Context, *Q, ...grpc.CallOption) (*A, error)

func call[Q, A any](ctx context.Context, c *Client, method method[Q, A], message *Q) (*A, error) {
	ctx, cancel := context.WithTimeout(ctx, c.options.timeout)
	defer cancel()
	answer, err := method(ctx, message)
	if err != nil {
		return nil, failure(err)
	}
	return answer, nil
}
