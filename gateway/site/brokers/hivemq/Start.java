// HiveMQ CE as it comes, started with the folder that holds its configuration. It lets nobody in unless an extension does, so this
// one lets everybody in: who may do what is decided by the gateway before it.
import com.hivemq.embedded.EmbeddedExtension;
import com.hivemq.embedded.EmbeddedHiveMQ;
import com.hivemq.extension.sdk.api.ExtensionMain;
import com.hivemq.extension.sdk.api.auth.SimpleAuthenticator;
import com.hivemq.extension.sdk.api.parameter.ExtensionStartInput;
import com.hivemq.extension.sdk.api.parameter.ExtensionStartOutput;
import com.hivemq.extension.sdk.api.parameter.ExtensionStopInput;
import com.hivemq.extension.sdk.api.parameter.ExtensionStopOutput;
import com.hivemq.extension.sdk.api.services.Services;
import java.nio.file.Path;

class Start {
    public static void main(String[] arguments) {
        Path folder = Path.of(arguments[0]);
        EmbeddedExtension extension = EmbeddedExtension.builder()
            .withId("everybody").withName("Lets everybody in").withVersion("1")
            .withExtensionMain(new Everybody())
            .build();
        EmbeddedHiveMQ.builder()
            .withConfigurationFolder(folder.resolve("conf"))
            .withDataFolder(folder.resolve("data"))
            .withExtensionsFolder(folder.resolve("extensions"))
            .withEmbeddedExtension(extension)
            .build().start().join();
        // The name that a broker started this way gives itself is "Development Snapshot", so its version is read off its file.
        String jar = EmbeddedHiveMQ.class.getProtectionDomain().getCodeSource().getLocation().getPath();
        System.out.println("HiveMQ CE " + jar.replaceAll(".*-([0-9.]+)\\.jar", "$1") + " serves");
    }

    static final class Everybody implements ExtensionMain {
        @Override public void extensionStart(ExtensionStartInput input, ExtensionStartOutput output) {
            SimpleAuthenticator open = (in, out) -> out.authenticateSuccessfully();
            Services.securityRegistry().setAuthenticatorProvider(in -> open);
        }
        @Override public void extensionStop(ExtensionStopInput input, ExtensionStopOutput output) { }
    }
}
