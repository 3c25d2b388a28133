package quota_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"tollgate/quota"
	"tollgate/quota/quotatest"
)

func sharingProject() uint64 { return 830 }
func otherProject() uint64   { return 830 }

func gateway(ctx context.Context, address string) error {
	client, err := quota.New(address, quota.WithOrg("org-demo"), quota.WithProject("search"))
	if err != nil {
		return err
	}
	defer client.Close()

	reservation, err := client.Reserve(ctx, quota.Request{Model: "gpt-4o", Tokens: 1200})
	if err != nil {
		return err // never an excuse to take it for FREE
	}
	defer reservation.Close(ctx)

	if err := reservation.Dispatched(); err != nil {
		return err // it was released meanwhile: don't send the request
	}
	if reservation.Free() {
		_, err = reservation.Settle(ctx, sharingProject())
	} else {
		// BILLED is an answer: send the request where nothing is shared, or not at all.
		_, err = reservation.SettleOutside(ctx, otherProject())
	}
	return err
}

func unitTest(ctx context.Context) error {
	fake, stop := quotatest.New(1_000)
	defer stop()
	client, err := fake.Client()
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = client.Reserve(ctx, quota.Request{Model: "gpt-4o", Tokens: 1})
	return err
}

// A module made as the README says, from the modules that this one has fetched.
func TestTheModuleOfTheReadmeIsBuilt(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(readme), "## The module")
	blocks := regexp.MustCompile("(?s)```(?:sh)?\n(.*?)```").FindAllStringSubmatch(text, -1)
	equal(t, len(blocks), 2)
	module := strings.ReplaceAll(blocks[0][1], "../tollgate/clients/go", here)
	equal(t, strings.Contains(module, here), true)
	source := `package main

import "tollgate/quota"

func main() { _, _ = quota.New("localhost:50051") }
`
	folder := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module gateway\n\ngo 1.24\n\n" + module, "main.go": source} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, blocks[1][1], "go mod tidy\n")
	// With -e it does without the modules that the modules' own tests need.
	command := exec.Command("sh", "-c", "go mod tidy -e; go build -o /dev/null .")
	command.Dir = folder
	command.Env = append(os.Environ(), "PWD="+folder, "GOFLAGS=-mod=mod", "GOPROXY=off", "GONOSUMDB=*")
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
}

// The examples of the README stand above, at another address.
func TestTheExamplesOfTheReadmeRun(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	unindented := strings.ReplaceAll(string(source), "\n\t", "\n")
	unindented = strings.ReplaceAll(unindented, "quota.New(address,", `quota.New("localhost:50051",`)
	examples := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	equal(t, len(examples), 2)
	for _, example := range examples {
		if !strings.Contains(unindented, example[1]) {
			t.Fatalf("this example is not in example_test.go: %s", example[1])
		}
	}
	if err := gateway(t.Context(), service(t, nil, "127.0.0.1:0")); err != nil {
		t.Fatal(err)
	}
	if err := unitTest(t.Context()); err != nil {
		t.Fatal(err)
	}
}
