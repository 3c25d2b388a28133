// Package quotatest has a fake of the service for the unit tests of gateways: in this process, without a network.
package quotatest

import (
	"context"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tollgate/quota"
	pb "tollgate/quota/internal/tollgatev1"
)

const pool = "large"

// Reservation is what the fake knows of one reservation.
type Reservation struct {
	ID, Org, Project, Model string
	// The reserved tokens.
	Tokens uint64
	// Why it is BILLED; 0: it is FREE.
	BilledReason quota.BilledReason
	// Held, Settled or Released: the service knows nothing of a dispatch.
	State quota.State
	// What it was settled with.
	SettledTokens  uint64
	OutsideProgram bool

	request *pb.ReserveRequest
	answer  *pb.SettleResponse
}

type failure struct {
	method  string
	code    codes.Code
	counted bool
}

// Fake grants an allowance to each organization, for every project and model, in one pool. It counts by the rules of
// docs/CONTRACT.md: replays, Settle's table, Release and their errors.
type Fake struct {
	pb.UnimplementedQuotaServiceServer
	allowance uint64
	listener  *bufconn.Listener

	mutex        sync.Mutex
	calls        []string
	reservations []*Reservation
	reasons      []quota.BilledReason
	failures     []failure
}

// New starts a fake. Stop ends it.
func New(allowance uint64) (fake *Fake, stop func()) {
	fake = &Fake{allowance: allowance, listener: bufconn.Listen(1 << 16)}
	server := grpc.NewServer(grpc.UnaryInterceptor(fake.intercept))
	pb.RegisterQuotaServiceServer(server, fake)
	go func() { _ = server.Serve(fake.listener) }()
	return fake, server.Stop
}

// Client makes a client of the fake, for the organization org-demo unless the options say otherwise.
func (f *Fake) Client(set ...quota.Option) (*quota.Client, error) {
	dial := quota.WithDialOptions(
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return f.listener.DialContext(ctx)
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// A failure that a test prepares is an answer, not retried.
		grpc.WithDisableRetry(),
	)
	options := []quota.Option{quota.WithOrg("org-demo"), quota.WithProject("project"), dial}
	return quota.New("localhost:0", append(options, set...)...)
}

// BillNext makes the next Reserve BILLED with this reason.
func (f *Fake) BillNext(reason quota.BilledReason) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.reasons = append(f.reasons, reason)
}

// FailNext makes the next call of an RPC, such as "Reserve", fail. counted: after it has counted all the same.
func (f *Fake) FailNext(method string, code codes.Code, counted bool) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.failures = append(f.failures, failure{method, code, counted})
}

// Calls returns the names of the RPCs, in their order.
func (f *Fake) Calls() []string {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	return append([]string(nil), f.calls...)
}

// Reservations returns all reservations, in their order.
func (f *Fake) Reservations() []Reservation {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	var all []Reservation
	for _, it := range f.reservations {
		all = append(all, *it)
	}
	return all
}

// Used returns the free tokens of an organization that count, settled and held.
func (f *Fake) Used(org string) uint64 {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	return f.used(org, nil)
}

func (f *Fake) used(org string, without *Reservation) uint64 {
	var used uint64
	for _, it := range f.reservations {
		if it == without || it.Org != org || it.BilledReason != 0 || it.State == quota.Released {
			continue
		}
		if it.State == quota.Settled {
			used += it.SettledTokens
		} else {
			used += it.Tokens
		}
	}
	return used
}

func (f *Fake) intercept(
	ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	method := info.FullMethod[len("/tollgate.v1.QuotaService/"):]
	f.calls = append(f.calls, method)
	for i, it := range f.failures {
		if it.method != method {
			continue
		}
		f.failures = append(f.failures[:i], f.failures[i+1:]...)
		if it.counted {
			if _, err := handler(ctx, request); err != nil {
				return nil, err
			}
		}
		return nil, status.Error(it.code, "the test wants it")
	}
	return handler(ctx, request)
}

// Reserve answers as the service does.
func (f *Fake) Reserve(_ context.Context, r *pb.ReserveRequest) (*pb.ReserveResponse, error) {
	for _, it := range []struct{ name, value string }{{"org", r.Org}, {"project", r.Project}, {"model", r.Model}} {
		if len(it.value) < 1 || len(it.value) > 256 {
			return nil, status.Errorf(codes.InvalidArgument, "%s must be 1 to 256 bytes", it.name)
		}
	}
	if r.Tokens < 1 || r.Tokens > 1_000_000_000 {
		return nil, status.Error(codes.InvalidArgument, "tokens must be 1 to 1,000,000,000")
	}
	if known := f.known(r.Org, r.RequestId); known != nil && !r.DryRun {
		switch {
		case known.State == quota.Released:
			return nil, status.Error(codes.FailedPrecondition, "this request_id was released")
		case !proto.Equal(known.request, r):
			return nil, status.Error(codes.AlreadyExists, "this request_id was reserved with other fields")
		}
		return f.decision(r.Org, known.BilledReason, true), nil
	}
	var reason quota.BilledReason
	if len(f.reasons) > 0 && !r.DryRun {
		reason, f.reasons = f.reasons[0], f.reasons[1:]
	} else if f.used(r.Org, nil)+r.Tokens > f.allowance {
		reason = quota.AllowanceExceeded
	}
	if !r.DryRun {
		f.reservations = append(f.reservations, &Reservation{
			ID: r.RequestId, Org: r.Org, Project: r.Project, Model: r.Model, Tokens: r.Tokens,
			BilledReason: reason, request: r,
		})
	}
	return f.decision(r.Org, reason, false), nil
}

func (f *Fake) decision(org string, reason quota.BilledReason, replayed bool) *pb.ReserveResponse {
	answer := &pb.ReserveResponse{
		Verdict: verdict(reason), BilledReason: pb.BilledReason(reason), Replayed: replayed, ResetsAt: midnight(),
	}
	if reason == 0 || reason == quota.AllowanceExceeded {
		answer.Pool, answer.Allowance = pool, f.allowance
		answer.Used, answer.Remaining = f.balance(org)
	}
	return answer
}

// Settle answers as the service does.
func (f *Fake) Settle(_ context.Context, r *pb.SettleRequest) (*pb.SettleResponse, error) {
	known := f.known(r.Org, r.RequestId)
	switch {
	case r.Tokens > 1_000_000_000:
		return nil, status.Error(codes.InvalidArgument, "tokens must be 0 to 1,000,000,000")
	case known == nil:
		return nil, status.Error(codes.NotFound, "request_id is unknown")
	case known.State == quota.Released:
		return nil, status.Error(codes.FailedPrecondition, "the reservation was released")
	case known.State == quota.Settled && (known.SettledTokens != r.Tokens || known.OutsideProgram != r.OutsideProgram):
		return nil, status.Errorf(codes.AlreadyExists, "settled with %d tokens", known.SettledTokens)
	case known.State == quota.Settled:
		answer := proto.CloneOf(known.answer)
		answer.Replayed = true
		return answer, nil
	}
	was := known.BilledReason
	if r.OutsideProgram {
		known.BilledReason = quota.RanOutsideProgram
	} else if was == 0 || was == quota.AllowanceExceeded {
		known.BilledReason = quota.AllowanceExceeded
		if was == 0 && r.Tokens <= known.Tokens || f.used(r.Org, known)+r.Tokens <= f.allowance {
			known.BilledReason = 0
		}
	}
	known.State, known.SettledTokens, known.OutsideProgram = quota.Settled, r.Tokens, r.OutsideProgram
	known.answer = &pb.SettleResponse{
		Verdict: verdict(known.BilledReason), BilledReason: pb.BilledReason(known.BilledReason),
		VerdictChanged: (was == 0) != (known.BilledReason == 0),
		Pool:           pool, Allowance: f.allowance, ResetsAt: midnight(),
	}
	known.answer.Used, known.answer.Remaining = f.balance(r.Org)
	return known.answer, nil
}

// Release answers as the service does.
func (f *Fake) Release(_ context.Context, r *pb.ReleaseRequest) (*pb.ReleaseResponse, error) {
	known := f.known(r.Org, r.RequestId)
	if known == nil {
		return nil, status.Error(codes.NotFound, "request_id is unknown")
	}
	if known.State == quota.Settled {
		return nil, status.Error(codes.FailedPrecondition, "the reservation was settled")
	}
	answer := &pb.ReleaseResponse{
		ReleasedTokens: known.Tokens, Replayed: known.State == quota.Released,
		Pool: pool, Allowance: f.allowance, ResetsAt: midnight(),
	}
	known.State = quota.Released
	answer.Used, answer.Remaining = f.balance(r.Org)
	return answer, nil
}

// GetQuota answers as the service does.
func (f *Fake) GetQuota(_ context.Context, r *pb.GetQuotaRequest) (*pb.GetQuotaResponse, error) {
	figures := &pb.PoolQuota{Pool: pool, Allowance: f.allowance}
	figures.Used, figures.Remaining = f.balance(r.Org)
	for _, it := range f.reservations {
		if it.Org != r.Org || it.State == quota.Released {
			continue
		}
		switch it.BilledReason {
		case 0:
			figures.FreeRequests++
			if it.State == quota.Held {
				figures.HeldTokens += it.Tokens
			}
		case quota.AllowanceExceeded:
			figures.BilledRequests++
			if it.State == quota.Settled {
				figures.BilledTokens += it.SettledTokens
			} else {
				figures.BilledTokens += it.Tokens
			}
		}
	}
	return &pb.GetQuotaResponse{
		Org: r.Org, Tier: 3, Enrolled: true, Day: time.Now().UTC().Format(time.DateOnly),
		ResetsAt: midnight(), Pools: []*pb.PoolQuota{figures},
	}, nil
}

// Estimate bounds by the body's size, with an output of a thousand tokens: a fake has no estimator.
func (f *Fake) Estimate(_ context.Context, r *pb.EstimateRequest) (*pb.EstimateResponse, error) {
	size := uint64(len(r.Body))
	return &pb.EstimateResponse{
		Tokens: size + 1_000, InputTokens: size, OutputTokens: 1_000, Model: r.Model,
		Basis: pb.EstimateBasis_ESTIMATE_BASIS_TEXT_BYTES, Workload: pb.Workload_WORKLOAD_INFERENCE,
	}, nil
}

func (f *Fake) known(org, id string) *Reservation {
	for _, it := range f.reservations {
		if it.Org == org && it.ID == id {
			return it
		}
	}
	return nil
}

func (f *Fake) balance(org string) (used, remaining uint64) {
	used = f.used(org, nil)
	return used, max(f.allowance, used) - used
}

func verdict(reason quota.BilledReason) pb.Verdict {
	if reason == 0 {
		return pb.Verdict_VERDICT_FREE
	}
	return pb.Verdict_VERDICT_BILLED
}

func midnight() *timestamppb.Timestamp {
	return timestamppb.New(time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, 1))
}
