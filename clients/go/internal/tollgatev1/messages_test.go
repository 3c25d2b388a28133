package tollgatev1

import (
	"os"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
)

// TOLLGATE_TEST_DESCRIPTORS names a file with the descriptors of the proto, as protoc writes them.
func TestTheMessagesAreThoseOfTheProto(t *testing.T) {
	encoded, err := os.ReadFile(os.Getenv("TOLLGATE_TEST_DESCRIPTORS"))
	if err != nil {
		t.Fatal(err)
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(encoded, &set); err != nil {
		t.Fatal(err)
	}
	got := protodesc.ToFileDescriptorProto(File_tollgate_v1_quota_proto)
	got.Options = nil
	for _, wanted := range set.File {
		if wanted.GetName() != got.GetName() {
			continue
		}
		wanted.SourceCodeInfo = nil
		if !proto.Equal(got, wanted) {
			t.Fatal("run clients/generate")
		}
		return
	}
	t.Fatal("the descriptors have no " + got.GetName())
}
