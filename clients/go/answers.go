package quota

import (
	"fmt"
	"strings"
	"time"

	pb "tollgate/quota/internal/tollgatev1"
)

// Verdict says whether a request is free or billed. Always the whole request. Values of newer services are kept.
type Verdict int32

// The verdicts.
const (
	Free   = Verdict(pb.Verdict_VERDICT_FREE)
	Billed = Verdict(pb.Verdict_VERDICT_BILLED)
)

// String returns the name, such as FREE, or UNKNOWN_99.
func (v Verdict) String() string { return name(pb.Verdict_name, "VERDICT_", int32(v)) }

// BilledReason says why a request is billed; 0 with FREE. docs/CONTRACT.md, "The gRPC surface".
type BilledReason int32

// The reasons.
const (
	OrganizationNotEnrolled = BilledReason(pb.BilledReason_BILLED_REASON_ORGANIZATION_NOT_ENROLLED)
	ZeroDataRetention       = BilledReason(pb.BilledReason_BILLED_REASON_ZERO_DATA_RETENTION)
	EnterprisePlan          = BilledReason(pb.BilledReason_BILLED_REASON_ENTERPRISE_PLAN)
	ProgramEnded            = BilledReason(pb.BilledReason_BILLED_REASON_PROGRAM_ENDED)
	ProjectNotSharing       = BilledReason(pb.BilledReason_BILLED_REASON_PROJECT_NOT_SHARING)
	WorkloadNotCovered      = BilledReason(pb.BilledReason_BILLED_REASON_WORKLOAD_NOT_COVERED)
	FineTunedModel          = BilledReason(pb.BilledReason_BILLED_REASON_FINE_TUNED_MODEL)
	ModelNotCovered         = BilledReason(pb.BilledReason_BILLED_REASON_MODEL_NOT_COVERED)
	PoolClosed              = BilledReason(pb.BilledReason_BILLED_REASON_POOL_CLOSED)
	AllowanceExceeded       = BilledReason(pb.BilledReason_BILLED_REASON_ALLOWANCE_EXCEEDED)
	DayClosed               = BilledReason(pb.BilledReason_BILLED_REASON_DAY_CLOSED)
	StoreUnavailable        = BilledReason(pb.BilledReason_BILLED_REASON_STORE_UNAVAILABLE)
	RanOutsideProgram       = BilledReason(pb.BilledReason_BILLED_REASON_RAN_OUTSIDE_PROGRAM)
	ShareExceeded           = BilledReason(pb.BilledReason_BILLED_REASON_SHARE_EXCEEDED)
)

// String returns the name, such as ALLOWANCE_EXCEEDED, or UNKNOWN_99; empty for 0.
func (r BilledReason) String() string {
	if r == 0 {
		return ""
	}
	return name(pb.BilledReason_name, "BILLED_REASON_", int32(r))
}

// Workload is the kind of work of a request.
type Workload int32

// The workloads.
const (
	Inference       = Workload(pb.Workload_WORKLOAD_INFERENCE)
	HostedTool      = Workload(pb.Workload_WORKLOAD_HOSTED_TOOL)
	FineTuning      = Workload(pb.Workload_WORKLOAD_FINE_TUNING)
	Evaluation      = Workload(pb.Workload_WORKLOAD_EVALUATION)
	Batch           = Workload(pb.Workload_WORKLOAD_BATCH)
	FunctionCalling = Workload(pb.Workload_WORKLOAD_FUNCTION_CALLING)
	Flex            = Workload(pb.Workload_WORKLOAD_FLEX)
	Priority        = Workload(pb.Workload_WORKLOAD_PRIORITY)
)

// String returns the name, such as INFERENCE, or UNKNOWN_99.
func (w Workload) String() string { return name(pb.Workload_name, "WORKLOAD_", int32(w)) }

// EstimateBasis says what the input of a request was bounded by.
type EstimateBasis int32

// String returns the name, such as TEXT_BYTES, or UNKNOWN_99.
func (b EstimateBasis) String() string {
	return name(pb.EstimateBasis_name, "ESTIMATE_BASIS_", int32(b))
}

func name(names map[int32]string, prefix string, value int32) string {
	if known, ok := names[value]; ok {
		return strings.TrimPrefix(known, prefix)
	}
	return fmt.Sprintf("UNKNOWN_%d", value)
}

// Balance is the figures of a request's pool, in tokens; empty and 0 where the request has no pool.
type Balance struct {
	Pool                       string
	Allowance, Used, Remaining uint64
	// The next UTC midnight by the store's clock.
	ResetsAt time.Time
	// True if the same call was answered before: this one counted nothing.
	Replayed bool
}

// Decision is the answer of Reserve.
type Decision struct {
	Balance
	Verdict      Verdict
	BilledReason BilledReason
}

// Free reports whether the request may be sent within the programme.
func (d Decision) Free() bool { return d.Verdict == Free }

// Settlement is the answer of Settle: the verdict on the actual tokens.
type Settlement struct {
	Decision
	VerdictChanged bool
}

// ReleaseResult is the answer of Release.
type ReleaseResult struct {
	Balance
	// The tokens, free or billed, that no longer count.
	ReleasedTokens uint64
}

// Estimate is an upper bound on the tokens of a request.
type Estimate struct {
	Tokens, InputTokens, OutputTokens uint64
	Basis                             EstimateBasis
	Model                             string
	Workload                          Workload
	// Whether the request itself bounds its output.
	OutputCapped bool
}

// PoolQuota is today's figures of one pool.
type PoolQuota struct {
	Pool                                       string
	Allowance, Used, Remaining                 uint64
	BilledTokens, FreeRequests, BilledRequests uint64
	// Tokens of FREE reservations that are neither settled nor released; a part of Used.
	HeldTokens uint64
	// Whether an overflow closed the pool until midnight.
	Closed bool
	// The part of the allowance that no Reserve gets.
	MarginTokens uint64
	// Tokens that the provider counted today and Tollgate did not.
	ExternalTokens uint64
	// The projects that may use only a part of the pool, ordered by name.
	Shares []ShareQuota
}

// ShareQuota is what a project may use of a pool today, and has used.
type ShareQuota struct {
	Project                string
	Share, Used, Remaining uint64
}

// Quota is what an organization has today.
type Quota struct {
	Org               string
	Tier              uint32
	Enrolled          bool
	NotEnrolledReason BilledReason
	// The UTC day of the figures, such as "2026-11-22".
	Day      string
	ResetsAt time.Time
	Pools    []PoolQuota
}

// ProviderUsage is what the provider counted of a project and a model on a day.
type ProviderUsage struct {
	// Tokens that were free by their service tier, and all others.
	FreeTokens, BilledTokens uint64
}

// UsageRow is what one project used of one model on a day. In a row that only the provider has, its figures are 0.
type UsageRow struct {
	Project, Model string
	// The pool that lists the model now; empty if none does.
	Pool                         string
	FreeTokens, BilledTokens     uint64
	FreeRequests, BilledRequests uint64
	// The UTC day, such as "2026-11-22"; empty if the service is of an earlier release.
	Day string
	// What the provider counted, as of the last comparison; nil if the row was not compared, or that can't be read.
	Provider *ProviderUsage
}

// Usage is the usage of a day, or of a range of days.
type Usage struct {
	// The UTC day; empty for a range.
	Day string
	// The first and the last day with figures: FromDay is later than the one that was asked for if days before it are
	// not kept any more.
	FromDay, ToDay string
	// Ordered by day, then by project, then by model.
	Rows []UsageRow
}

// The getters answer nil messages with zero values.

func decision(a *pb.ReserveResponse) Decision {
	balance := Balance{
		a.GetPool(), a.GetAllowance(), a.GetUsed(), a.GetRemaining(), a.GetResetsAt().AsTime(), a.GetReplayed(),
	}
	return Decision{balance, Verdict(a.GetVerdict()), BilledReason(a.GetBilledReason())}
}

func settlement(a *pb.SettleResponse) Settlement {
	balance := Balance{
		a.GetPool(), a.GetAllowance(), a.GetUsed(), a.GetRemaining(), a.GetResetsAt().AsTime(), a.GetReplayed(),
	}
	decision := Decision{balance, Verdict(a.GetVerdict()), BilledReason(a.GetBilledReason())}
	return Settlement{decision, a.GetVerdictChanged()}
}

func released(a *pb.ReleaseResponse) ReleaseResult {
	balance := Balance{
		a.GetPool(), a.GetAllowance(), a.GetUsed(), a.GetRemaining(), a.GetResetsAt().AsTime(), a.GetReplayed(),
	}
	return ReleaseResult{balance, a.GetReleasedTokens()}
}

func estimate(a *pb.EstimateResponse) Estimate {
	workload := Workload(a.GetWorkload())
	if workload == 0 {
		// Unspecified counts as inference.
		workload = Inference
	}
	return Estimate{
		a.GetTokens(), a.GetInputTokens(), a.GetOutputTokens(), EstimateBasis(a.GetBasis()), a.GetModel(),
		workload, a.GetOutputCapped(),
	}
}

func quota(a *pb.GetQuotaResponse) Quota {
	quota := Quota{
		Org: a.GetOrg(), Tier: a.GetTier(), Enrolled: a.GetEnrolled(), Day: a.GetDay(),
		NotEnrolledReason: BilledReason(a.GetNotEnrolledReason()), ResetsAt: a.GetResetsAt().AsTime(),
	}
	for _, p := range a.GetPools() {
		var shares []ShareQuota
		for _, s := range p.Shares {
			shares = append(shares, ShareQuota{s.Project, s.Share, s.Used, s.Remaining})
		}
		quota.Pools = append(quota.Pools, PoolQuota{
			p.Pool, p.Allowance, p.Used, p.Remaining, p.BilledTokens, p.FreeRequests, p.BilledRequests,
			p.HeldTokens, p.Closed, p.MarginTokens, p.ExternalTokens, shares,
		})
	}
	return quota
}

func usageRows(a *pb.ListUsageResponse) []UsageRow {
	rows := make([]UsageRow, 0, len(a.Rows))
	for _, r := range a.Rows {
		var provider *ProviderUsage
		if p := r.Provider; p != nil {
			provider = &ProviderUsage{p.FreeTokens, p.BilledTokens}
		}
		rows = append(rows, UsageRow{
			r.Project, r.Model, r.Pool, r.FreeTokens, r.BilledTokens, r.FreeRequests, r.BilledRequests,
			r.Day, provider,
		})
	}
	return rows
}
