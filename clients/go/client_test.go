package quota_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tollgate/quota"
	pb "tollgate/quota/internal/tollgatev1"
	"tollgate/quota/quotatest"
)

var request = quota.Request{Model: "gpt-4o", Tokens: 1_000}

// fake returns a fake, its client, and what that logs.
func fake(t *testing.T, set ...quota.Option) (*quotatest.Fake, *quota.Client, *bytes.Buffer) {
	t.Helper()
	fake, stop := quotatest.New(1_000_000)
	t.Cleanup(stop)
	var log bytes.Buffer
	set = append(set, quota.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	client, err := fake.Client(set...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return fake, client, &log
}

func reserve(t *testing.T, client *quota.Client) *quota.Reservation {
	t.Helper()
	reservation, err := client.Reserve(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	return reservation
}

func equal[T comparable](t *testing.T, got, wanted T) {
	t.Helper()
	if got != wanted {
		t.Fatalf("got %v, wanted %v", got, wanted)
	}
}

func TestAReservationThatIsLeftAfterItsDispatchIsKeptAndLogged(t *testing.T) {
	fake, client, log := fake(t)
	reservation := reserve(t, client)
	equal(t, reservation.Dispatched(), nil)
	reservation.Close(t.Context())
	equal(t, reservation.State(), quota.Kept)
	equal(t, fake.Used("org-demo"), 1_000)
	equal(t, strings.Contains(log.String(), reservation.ID), true)
}

func TestWhatIsOrMayBeReleasedIsNotDispatched(t *testing.T) {
	for _, end := range []func(*quota.Reservation){
		func(r *quota.Reservation) { _, _ = r.Release(context.Background()) },
		func(r *quota.Reservation) { r.Close(context.Background()) },
	} {
		var reservation *quota.Reservation
		_, client, _ := fake(t, after("Release", func() {
			equal(t, reservation.State(), quota.Releasing)
			equal(t, status.Code(reservation.Dispatched()), codes.FailedPrecondition)
		}))
		reservation = reserve(t, client)
		end(reservation)
		equal(t, reservation.State(), quota.Released)
		equal(t, status.Code(reservation.Dispatched()), codes.FailedPrecondition)
	}
}

func TestAReleaseOfUnknownOutcomeIsMadeAgain(t *testing.T) {
	fake, client, log := fake(t)
	reservation := reserve(t, client)
	equal(t, reservation.Dispatched(), nil)
	fake.FailNext("Release", codes.Unavailable, true)
	_, err := reservation.Release(t.Context())
	equal(t, status.Code(err), codes.Unavailable)
	equal(t, status.Code(reservation.Dispatched()), codes.FailedPrecondition)
	reservation.Close(t.Context())
	equal(t, reservation.State(), quota.Released)
	equal(t, log.Len(), 0)
}

func TestASettleThatFailsIsKeptAndMayComeLater(t *testing.T) {
	fake, client, log := fake(t)
	reservation := reserve(t, client)
	fake.FailNext("Settle", codes.Unavailable, false)
	_, err := reservation.Settle(t.Context(), 10)
	equal(t, status.Code(err), codes.Unavailable)
	reservation.Close(t.Context())
	equal(t, strings.Contains(log.String(), "not settled"), true)
	settlement, err := client.Settle(t.Context(), "", reservation.ID, 10, false)
	equal(t, err == nil && settlement.Free(), true)
	equal(t, fake.Used("org-demo"), 10)
}

func TestAReleaseThatFailsIsLogged(t *testing.T) {
	fake, client, log := fake(t)
	fake.FailNext("Release", codes.Unavailable, false)
	reserve(t, client).Close(t.Context())
	equal(t, strings.Contains(log.String(), "could not be released"), true)
}

func TestAReserveOfUnknownOutcomeIsReleased(t *testing.T) {
	fake, client, log := fake(t)
	fake.FailNext("Reserve", codes.DeadlineExceeded, true)
	_, err := client.Reserve(t.Context(), request)
	var failed *quota.Error
	equal(t, errors.As(err, &failed) && failed.OutcomeUnknown(), true)
	_ = client.Close()
	equal(t, fake.Used("org-demo"), 0)
	equal(t, slices.Equal(fake.Calls(), []string{"Reserve", "Release"}), true)
	equal(t, log.Len(), 0)
}

func TestAReleaseThatOvertakesItsReserveIsMadeAgain(t *testing.T) {
	var late func()
	fake, client, log := fake(t, quota.WithDialOptions(grpc.WithUnaryInterceptor(func(
		ctx context.Context, path string, q, a any, conn *grpc.ClientConn, next grpc.UnaryInvoker,
		options ...grpc.CallOption,
	) error {
		if strings.HasSuffix(path, "/Reserve") {
			late = func() { _ = next(context.Background(), path, q, a, conn, options...) }
			return status.Error(codes.DeadlineExceeded, "late")
		}
		err := next(ctx, path, q, a, conn, options...)
		if late != nil {
			late()
			late = nil
		}
		return err
	})))
	_, err := client.Reserve(t.Context(), request)
	equal(t, status.Code(err), codes.DeadlineExceeded)
	_ = client.Close()
	equal(t, slices.Equal(fake.Calls(), []string{"Release", "Reserve", "Release"}), true)
	equal(t, fake.Used("org-demo"), 0)
	equal(t, log.Len(), 0)
}

func TestAReserveThatStaysUnknownIsLogged(t *testing.T) {
	fake, client, log := fake(t, quota.WithTimeout(600*time.Millisecond))
	fake.FailNext("Reserve", codes.Unavailable, false)
	_, err := client.Reserve(t.Context(), request)
	equal(t, status.Code(err), codes.Unavailable)
	_ = client.Close()
	equal(t, slices.Equal(fake.Calls(), []string{"Reserve", "Release", "Release"}), true)
	equal(t, strings.Contains(log.String(), "NotFound"), true)
}

func TestWithoutAServiceACallEndsByItsTimeoutAndNamesTheCause(t *testing.T) {
	equal(t, quota.DefaultTimeout, 2*time.Second)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	client := demo(t, address, quota.WithTimeout(500*time.Millisecond))
	_, err = client.Reserve(t.Context(), request)
	equal(t, status.Code(err), codes.DeadlineExceeded)
	for _, words := range []string{address, "connection refused"} {
		if !strings.Contains(err.Error(), words) {
			t.Fatalf("%s is not in: %v", words, err)
		}
	}
}

func TestCloseWaitsForAServiceThatIsAwayNoLongerThanASecond(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	fake, client, log := fake(t, after("Reserve", cancel), quota.WithTimeout(time.Minute),
		quota.WithDialOptions(grpc.WithChainUnaryInterceptor(func(
			ctx context.Context, path string, q, a any, conn *grpc.ClientConn, next grpc.UnaryInvoker,
			options ...grpc.CallOption,
		) error {
			if strings.HasSuffix(path, "/Release") {
				<-ctx.Done()
				return status.FromContextError(ctx.Err()).Err()
			}
			return next(ctx, path, q, a, conn, options...)
		})))
	_, err := client.Reserve(ctx, request)
	equal(t, status.Code(err), codes.Canceled)
	began := time.Now()
	_ = client.Close()
	equal(t, time.Since(began) < 30*time.Second, true)
	equal(t, fake.Used("org-demo"), 1_000)
	equal(t, strings.Contains(log.String(), "could not be released"), true)
}

func TestAReserveThatWasRefusedIsNotReleased(t *testing.T) {
	fake, client, _ := fake(t)
	_, err := client.Reserve(t.Context(), quota.Request{Tokens: 1})
	equal(t, status.Code(err), codes.InvalidArgument)
	_ = client.Close()
	equal(t, slices.Equal(fake.Calls(), []string{"Reserve"}), true)
}

// after cancels a context once the service has answered a method, and before the client sees it.
func after(method string, cancel func()) quota.Option {
	return quota.WithDialOptions(grpc.WithUnaryInterceptor(func(
		ctx context.Context, path string, q, a any, conn *grpc.ClientConn, next grpc.UnaryInvoker,
		options ...grpc.CallOption,
	) error {
		err := next(ctx, path, q, a, conn, options...)
		if strings.HasSuffix(path, "/"+method) {
			cancel()
			if ctx.Err() != nil {
				return status.FromContextError(ctx.Err()).Err()
			}
		}
		return err
	}))
}

func TestACancelledReserveIsReleased(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	fake, client, _ := fake(t, after("Reserve", cancel))
	_, err := client.Reserve(ctx, request)
	equal(t, status.Code(err), codes.Canceled)
	_ = client.Close()
	equal(t, fake.Used("org-demo"), 0)
}

func TestSettleAndCloseAreCarriedToTheirEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	fake, client, _ := fake(t)
	settled, left := reserve(t, client), reserve(t, client)
	cancel()
	if _, err := settled.Settle(ctx, 10); err != nil {
		t.Fatal(err)
	}
	left.Close(ctx)
	equal(t, left.State(), quota.Released)
	equal(t, fake.Used("org-demo"), 10)
}

func TestTheFakeGivesTheAnswersThatATestPrepares(t *testing.T) {
	fake, client, _ := fake(t)
	fake.BillNext(quota.StoreUnavailable)
	reservation := reserve(t, client)
	equal(t, reservation.BilledReason, quota.StoreUnavailable)
	equal(t, reservation.Free(), false)
	equal(t, fake.Reservations()[0].ID, reservation.ID)
}

func TestValuesOfNewerServicesAreKept(t *testing.T) {
	equal(t, quota.BilledReason(99).String(), "UNKNOWN_99")
	equal(t, quota.AllowanceExceeded.String(), "ALLOWANCE_EXCEEDED")
}

func TestATokenIsNeverSentInClearBeyondThisMachine(t *testing.T) {
	token := quota.WithToken(func() string { return "secret" })
	for _, address := range []string{"tollgate:50051", "10.0.0.1:50051", "[2001:db8::1]:50051"} {
		if _, err := quota.New(address, token); err == nil || !strings.Contains(err.Error(), "token") {
			t.Fatalf("%s: %v", address, err)
		}
	}
	for _, address := range []string{"localhost:1", "127.0.0.2:1", "[::1]:1", "unix:/socket"} {
		if _, err := quota.New(address, token); err != nil {
			t.Fatal(err)
		}
	}
	for _, address := range []string{"", "tollgate", "https://tollgate:50051", "unix:"} {
		if _, err := quota.New(address); err == nil || !strings.Contains(err.Error(), "address") {
			t.Fatalf("%q: %v", address, err)
		}
	}
}

func demo(t *testing.T, address string, set ...quota.Option) *quota.Client {
	t.Helper()
	set = append([]quota.Option{quota.WithOrg("org-demo"), quota.WithProject("search")}, set...)
	client, err := quota.New(address, set...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestAUnixSocket(t *testing.T) {
	address := service(t, nil, "unix:"+filepath.Join(t.TempDir(), "socket"))
	equal(t, reserve(t, demo(t, address)).Free(), true)
}

func TestTokens(t *testing.T) {
	callers := fmt.Sprintf("[callers.gateway]\ntokens = [\"sha256:%x\"]\nroles = [\"reserve\"]\n"+
		"organizations = [\"org-demo\"]\n", sha256.Sum256([]byte("secret")))
	address := service(t, map[string]string{"callers": callers}, "127.0.0.1:0")
	client := demo(t, address, quota.WithToken(func() string { return "secret" }))
	equal(t, reserve(t, client).Free(), true)
	_, err := client.Quota(t.Context(), "")
	equal(t, status.Code(err), codes.PermissionDenied)
	_, err = demo(t, address).Reserve(t.Context(), request)
	equal(t, status.Code(err), codes.Unauthenticated)
}

func TestATokenThatCanNotBeSentIsNamed(t *testing.T) {
	address := service(t, nil, "127.0.0.1:0")
	for _, token := range []string{"sec\nret", "sec\x00ret", "secr\u00e9t"} {
		_, err := demo(t, address, quota.WithToken(func() string { return token })).Reserve(t.Context(), request)
		equal(t, status.Code(err), codes.Unauthenticated)
		equal(t, strings.Contains(err.Error(), "token"), true)
	}
	// The end of a line is that of its file.
	equal(t, reserve(t, demo(t, address, quota.WithToken(func() string { return "secret\n" }))).Free(), true)
}

func TestTLSWithAClientCertificate(t *testing.T) {
	folder := os.Getenv("TOLLGATE_TEST_CERTIFICATES")
	path := func(name string) string { return filepath.Join(folder, name) }
	config := fmt.Sprintf("[tls]\ncert_file = %q\nkey_file = %q\nclient_ca_file = %q\n",
		path("server.pem"), path("server.key"), path("ca.pem"))
	listening := service(t, map[string]string{"config": config}, "127.0.0.1:0")
	address := "localhost" + listening[strings.LastIndex(listening, ":"):]
	authority, err := os.ReadFile(path("ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	mine, err := tls.LoadX509KeyPair(path("client.pem"), path("client.key"))
	if err != nil {
		t.Fatal(err)
	}
	right := &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{mine}}
	equal(t, reserve(t, demo(t, address, quota.WithTLS(right))).Free(), true)
	wrong := demo(t, address, quota.WithTLS(&tls.Config{}), quota.WithTimeout(500*time.Millisecond))
	_, err = wrong.Reserve(t.Context(), request)
	equal(t, err != nil, true)
}

func TestUsageReadsEveryPage(t *testing.T) {
	client := demo(t, service(t, nil, "127.0.0.1:0"))
	for number := range 1_001 {
		request := quota.Request{Model: "gpt-4o", Tokens: 1, Project: fmt.Sprintf("project-%04d", number)}
		if _, err := client.Reserve(t.Context(), request); err != nil {
			t.Fatal(err)
		}
	}
	day, err := client.Usage(t.Context(), "", "")
	equal(t, err == nil && len(day.Rows) == 1_001, true)
	all, err := client.UsageRange(t.Context(), "", day.Day, "")
	equal(t, err == nil && len(all.Rows) == 1_001, true)
	equal(t, [...]string{all.FromDay, all.ToDay, all.Rows[1_000].Day}, [...]string{day.Day, day.Day, day.Day})
}

// A row that was not compared, one of which the provider has nothing, and one that it has.
type comparedService struct {
	pb.UnimplementedQuotaServiceServer
}

func (comparedService) ListUsage(context.Context, *pb.ListUsageRequest) (*pb.ListUsageResponse, error) {
	return &pb.ListUsageResponse{Rows: []*pb.UsageRow{
		{Project: "a"},
		{Project: "b", Provider: &pb.ProviderUsage{}},
		{Project: "c", Provider: &pb.ProviderUsage{FreeTokens: 900, BilledTokens: 40}},
	}}, nil
}

func TestARowHasWhatTheProviderCountedOnlyIfItWasCompared(t *testing.T) {
	usage, err := demo(t, serve(t, comparedService{})).Usage(t.Context(), "", "")
	equal(t, err == nil && len(usage.Rows) == 3, true)
	equal(t, usage.Rows[0].Provider == nil, true)
	equal(t, *usage.Rows[1].Provider, quota.ProviderUsage{})
	equal(t, *usage.Rows[2].Provider, quota.ProviderUsage{FreeTokens: 900, BilledTokens: 40})
}

// serve returns the address of a stand-in for the service.
func serve(t *testing.T, service pb.QuotaServiceServer) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterQuotaServiceServer(server, service)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

// A service of an earlier release takes a range for today.
type earlierRelease struct {
	pb.UnimplementedQuotaServiceServer
}

func (earlierRelease) ListUsage(context.Context, *pb.ListUsageRequest) (*pb.ListUsageResponse, error) {
	return &pb.ListUsageResponse{Day: "2026-11-22", Rows: []*pb.UsageRow{{Project: "p"}}}, nil
}

func TestARangeOfAServiceThatListsNoneIsNoUsageOfToday(t *testing.T) {
	client := demo(t, serve(t, earlierRelease{}))
	usage, err := client.Usage(t.Context(), "", "")
	equal(t, err == nil && len(usage.Rows) == 1, true)
	for _, days := range [][2]string{{"2026-11-01", ""}, {"", "2026-11-01"}} {
		_, err = client.UsageRange(t.Context(), "", days[0], days[1])
		equal(t, status.Code(err), codes.Unimplemented)
	}
}

func TestTheServiceConfigIsTheExample(t *testing.T) {
	var texts [2]string
	for i, path := range []string{"service-config.json", "../../examples/service-config.json"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[i] = string(text)
	}
	equal(t, texts[0], texts[1])
}
