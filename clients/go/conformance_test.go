package quota_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tollgate/quota"
	"tollgate/quota/quotatest"
)

type conformance struct {
	Policy         []string
	Project, Model string
	Cases          []struct {
		Name, Org string
		Fake      bool
		Calls     []map[string]any
	}
}

func read(t *testing.T) conformance {
	t.Helper()
	text, err := os.ReadFile("../conformance.json")
	if err != nil {
		t.Fatal(err)
	}
	today, _ := json.Marshal(time.Now().UTC().Format(time.DateOnly))
	text = bytes.ReplaceAll(text, []byte(`"TODAY"`), today)
	var file conformance
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestTheClientConforms(t *testing.T) {
	file := read(t)
	files := map[string]string{"policy": strings.Join(file.Policy, "\n")}
	client, err := quota.New(service(t, files, "127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, it := range file.Cases {
		t.Run(it.Name, func(t *testing.T) { runCase(t, client, file, it.Org, it.Calls) })
	}
}

func TestTheFakeConforms(t *testing.T) {
	file := read(t)
	for _, it := range file.Cases {
		if !it.Fake {
			continue
		}
		t.Run(it.Name, func(t *testing.T) {
			fake, stop := quotatest.New(1_000_000)
			defer stop()
			client, err := fake.Client(quota.WithOrg(""), quota.WithProject(""))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			runCase(t, client, file, it.Org, it.Calls)
		})
	}
}

func runCase(t *testing.T, client *quota.Client, file conformance, org string, calls []map[string]any) {
	reservations := map[string]*quota.Reservation{}
	for number, call := range calls {
		answer, err := makeCall(client, file, org, call, reservations)
		wanted, _ := call["error"].(string)
		said, _ := call["says"].(string)
		if err != nil {
			code := constant(status.Code(err).String())
			if code != wanted || !strings.Contains(err.Error(), said) {
				t.Fatalf("call %d: %v, wanted %s %q", number, err, wanted, said)
			}
			continue
		}
		if wanted != "" {
			t.Fatalf("call %d: answered %v, wanted %s", number, answer, wanted)
		}
		if expect, ok := call["expect"].(map[string]any); ok {
			if fault := contains(plain(reflect.ValueOf(answer)).(map[string]any), expect); fault != "" {
				t.Fatalf("call %d, %v: %s", number, call, fault)
			}
		}
	}
}

func makeCall(
	client *quota.Client, file conformance, org string, call map[string]any, held map[string]*quota.Reservation,
) (any, error) {
	ctx := context.Background()
	text := func(key, otherwise string) string {
		if value, ok := call[key].(string); ok {
			return value
		}
		return otherwise
	}
	tokens, _ := call["tokens"].(float64)
	outside, _ := call["outside_program"].(bool)
	org = text("org", org)
	if of, ok := call["of"].(string); ok {
		return onReservation(ctx, held[of], call["call"].(string), uint64(tokens), outside)
	}
	request := quota.Request{
		Org: org, Project: text("project", file.Project), Model: text("model", file.Model), Tokens: uint64(tokens),
		Workload: map[string]quota.Workload{
			"INFERENCE": quota.Inference, "HOSTED_TOOL": quota.HostedTool, "FINE_TUNING": quota.FineTuning,
			"BATCH": quota.Batch, "FUNCTION_CALLING": quota.FunctionCalling, "FLEX": quota.Flex, "PRIORITY": quota.Priority,
		}[text("workload", "")],
	}
	switch call["call"] {
	case "reserve":
		reservation, err := client.Reserve(ctx, request)
		if err != nil {
			return nil, err
		}
		held[text("as", "")] = reservation
		return reservation.Decision, nil
	case "dry_run":
		return client.DryRun(ctx, request)
	case "settle":
		return client.Settle(ctx, org, text("request_id", ""), uint64(tokens), outside)
	case "release":
		return client.Release(ctx, org, text("request_id", ""))
	case "quota":
		return client.Quota(ctx, org)
	case "usage":
		if text("from_day", "")+text("to_day", "") != "" {
			return client.UsageRange(ctx, org, text("from_day", ""), text("to_day", ""))
		}
		return client.Usage(ctx, org, text("day", ""))
	case "estimate":
		body, _ := json.Marshal(call["body"])
		return client.Estimate(ctx, text("path", ""), body, "")
	}
	return nil, fmt.Errorf("unknown call %v", call["call"])
}

func onReservation(
	ctx context.Context, reservation *quota.Reservation, call string, tokens uint64, outside bool,
) (any, error) {
	switch call {
	case "settle":
		if outside {
			return reservation.SettleOutside(ctx, tokens)
		}
		return reservation.Settle(ctx, tokens)
	case "release":
		return reservation.Release(ctx)
	case "dispatched":
		if err := reservation.Dispatched(); err != nil {
			return nil, err
		}
	case "keep":
		reservation.Keep()
	case "leave":
		reservation.Close(ctx)
	default:
		return nil, fmt.Errorf("unknown call %v", call)
	}
	return struct{ State quota.State }{reservation.State()}, nil
}

var words = regexp.MustCompile("([a-z])([A-Z])")

// constant makes INVALID_ARGUMENT of InvalidArgument.
func constant(name string) string { return strings.ToUpper(words.ReplaceAllString(name, "${1}_${2}")) }

// plain makes of an answer what the file has: enums by name, fields in snake case.
func plain(value reflect.Value) any {
	if text, ok := value.Interface().(fmt.Stringer); ok && value.Kind() != reflect.Struct {
		if text.String() == "" {
			return nil
		}
		return text.String()
	}
	switch value.Kind() {
	case reflect.Struct:
		fields := map[string]any{}
		for i := range value.NumField() {
			field := value.Type().Field(i)
			switch {
			case field.Anonymous:
				for name, inner := range plain(value.Field(i)).(map[string]any) {
					fields[name] = inner
				}
			case field.Name == "ResetsAt":
			default:
				fields[strings.ToLower(words.ReplaceAllString(field.Name, "${1}_${2}"))] = plain(value.Field(i))
			}
		}
		return fields
	case reflect.Pointer:
		if value.IsNil() {
			return nil
		}
		return plain(value.Elem())
	case reflect.Slice:
		all := []any{}
		for i := range value.Len() {
			all = append(all, plain(value.Index(i)))
		}
		return all
	case reflect.Uint64, reflect.Uint32:
		return float64(value.Uint())
	}
	return value.Interface()
}

// contains returns what of the wanted fields is not there.
func contains(got, wanted map[string]any) string {
	for name, value := range wanted {
		if name == "rows" {
			if fault := containsRows(got["rows"].([]any), value.([]any)); fault != "" {
				return fault
			}
			continue
		}
		if name != "pools" {
			if !reflect.DeepEqual(got[name], value) {
				return fmt.Sprintf("%s is %v, not %v", name, got[name], value)
			}
			continue
		}
		for _, pool := range value.([]any) {
			fault := "there is no such pool"
			for _, its := range got["pools"].([]any) {
				if its.(map[string]any)["pool"] == pool.(map[string]any)["pool"] {
					fault = contains(its.(map[string]any), pool.(map[string]any))
				}
			}
			if fault != "" {
				return fault
			}
		}
	}
	return ""
}

// containsRows compares rows one by one: the file has all of them.
func containsRows(got, wanted []any) string {
	if len(got) != len(wanted) {
		return fmt.Sprintf("there are %d rows, not %d", len(got), len(wanted))
	}
	for i, row := range wanted {
		if fault := contains(got[i].(map[string]any), row.(map[string]any)); fault != "" {
			return fmt.Sprintf("row %d: %s", i, fault)
		}
	}
	return ""
}

func TestErrorsHaveTheirCode(t *testing.T) {
	err := error(&quota.Error{Code: codes.NotFound, Message: "unknown"})
	if status.Code(err) != codes.NotFound || err.Error() != "NotFound: unknown" {
		t.Fatal(err)
	}
}
