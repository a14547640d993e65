import dev.openfeature.contrib.providers.flagd.Config;
import dev.openfeature.contrib.providers.flagd.FlagdOptions;
import dev.openfeature.contrib.providers.flagd.FlagdProvider;
import dev.openfeature.sdk.OpenFeatureAPI;
import io.grpc.Metadata;
import io.grpc.stub.MetadataUtils;
import java.net.URI;
import java.util.List;

/** Reads a flag once, in the RPC mode of flagd's provider, and prints its value and the error code. */
public final class EvaluateOnce {
    public static void main(String[] arguments) {
        URI address = URI.create(System.getenv("TOGGLED_ADDR"));
        Metadata headers = new Metadata();
        headers.put(
                Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + System.getenv("TOGGLED_TOKEN"));
        var provider = new FlagdProvider(FlagdOptions.builder()
                .resolverType(Config.Resolver.RPC)
                .host(address.getHost())
                .port(address.getPort())
                .tls(true)
                .certPath(System.getenv("TOGGLED_CA_CERTIFICATE"))
                .deadline(60_000)
                .clientInterceptors(List.of(MetadataUtils.newAttachHeadersInterceptor(headers)))
                .build());
        OpenFeatureAPI api = OpenFeatureAPI.getInstance();
        api.setProviderAndWait(provider);
        var details = api.getClient().getBooleanDetails(arguments[0], false);
        System.out.println(arguments[0] + ": " + details.getValue() + " " + details.getErrorCode());
        System.exit(0);
    }
}
