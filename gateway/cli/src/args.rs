//! The command line: every command, its arguments and what they mean.
//!
//! Secrets never stand here: a key or a passphrase is named by the file that holds it, in an argument or in the environment.

use std::path::PathBuf;

use alloy::primitives::{Address, B256};
use clap::{Args, Parser, Subcommand, ValueEnum};
use flytrap_policy::{Country, NamingPolicy, Offer, Right};
use url::Url;

use crate::countries::{self, CountryList};
use crate::names;
use crate::settings::{self, Format, Server};
pub(crate) use crate::units::Moment;
use crate::units::{self, Amount, Span};

/// Wallet and auditor side of FlyTrap: topics, access, devices, tokens, bans, and the story that the chain tells.
#[derive(Debug, Parser)]
#[command(
    name = "flytrap",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    args_override_self = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command needs to know.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Ethereum node, http or https.
    #[arg(
        long,
        global = true,
        env = "FLYTRAP_RPC",
        hide_env_values = true,
        default_value = "http://127.0.0.1:8545",
        value_name = "URL"
    )]
    pub(crate) rpc: Url,
    /// Where the contracts are; default: deployments/<chain id>.json.
    #[arg(long, global = true, env = "FLYTRAP_DEPLOYMENT", value_name = "FILE")]
    pub(crate) deployment: Option<PathBuf>,
    /// The broker's number on chain.
    #[arg(long, global = true, env = "FLYTRAP_BROKER", value_name = "ID", default_value_t = 1)]
    pub(crate) broker: u64,
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    /// Answer in JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// Where the signing key is.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct KeyArgs {
    /// File with the private key, 64 hexadecimal digits, readable by you only.
    #[arg(
        long,
        global = true,
        env = "FLYTRAP_KEY_FILE",
        value_name = "FILE",
        conflicts_with = "keystore"
    )]
    pub(crate) key_file: Option<PathBuf>,
    /// JSON keystore, as geth, foundry and others write it.
    #[arg(long, global = true, env = "FLYTRAP_KEYSTORE", value_name = "FILE")]
    pub(crate) keystore: Option<PathBuf>,
    /// File with the keystore's passphrase, readable by you only; without it you are asked at the terminal.
    #[arg(long, global = true, env = "FLYTRAP_PASSPHRASE_FILE", value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Brokers: create one, its gateways, fees and naming policy.
    #[command(subcommand)]
    Broker(Broker),
    /// Topics: register, price, show, delete.
    #[command(subcommand)]
    Topic(Topic),
    /// Who may publish and subscribe: grant, buy, revoke, block.
    #[command(subcommand)]
    Access(Access),
    /// How your wallet is paid: prices, refunds and change.
    #[command(subcommand)]
    Payout(Payout),
    /// Device keys that act for your wallet.
    #[command(subcommand)]
    Device(Device),
    /// Tokens: user name and password for any MQTT client.
    #[command(subcommand)]
    Token(Token),
    /// Bans at a broker.
    #[command(subcommand)]
    Ban(Ban),
    /// Who did what, when and why, as the chain recorded it.
    Audit(AuditArgs),
    /// Explain whether a wallet may use a name, by the gateways' own rules, and what access would cost.
    Can(Can),
    /// Start a whole local site and tell a tour of it; stays up until Ctrl-C.
    Demo(DemoArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Broker {
    /// Create a broker that you own.
    Create {
        /// Its name, for people.
        #[arg(long)]
        name: String,
        /// Who may register topics at the top.
        #[arg(long, value_enum, default_value_t = Policy::OwnBranch)]
        policy: Policy,
    },
    /// Show owner, policy, fees, gateways.
    Show,
    /// Add a gateway or change where clients find it.
    SetGateway {
        /// Address of the gateway's key.
        #[arg(value_parser = units::address)]
        gateway: Address,
        /// Such as mqtts://host:8883.
        uri: String,
    },
    /// Switch a gateway's key off.
    RemoveGateway {
        /// Address of the gateway's key.
        #[arg(value_parser = units::address)]
        gateway: Address,
    },
    /// Let a wallet register topics anywhere at the top.
    SetRegistrar {
        /// Whom.
        #[arg(value_parser = units::address)]
        wallet: Address,
    },
    /// End that.
    RemoveRegistrar {
        /// Whom.
        #[arg(value_parser = units::address)]
        wallet: Address,
    },
    /// Set what the broker earns. A rise takes effect a day later.
    #[command(group = clap::ArgGroup::new("fee").required(true).multiple(true))]
    SetFee {
        /// For each day of a publish grant, such as 0.001ether.
        #[arg(long, group = "fee", value_name = "AMOUNT")]
        publish_per_day: Option<Amount>,
        /// Of each sale, such as 5%.
        #[arg(long, group = "fee", value_name = "PERCENT", value_parser = units::per_cent)]
        sale: Option<u128>,
    },
    /// Say who may register topics at the top.
    SetPolicy {
        /// The policy.
        #[arg(value_enum)]
        policy: Policy,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Policy {
    /// Registrars anywhere; anyone below the first level that is their own lower-case address.
    OwnBranch,
    /// Registrars only.
    Curated,
    /// Whoever comes first.
    Open,
}

impl From<Policy> for NamingPolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::OwnBranch => Self::OwnBranch,
            Policy::Curated => Self::Curated,
            Policy::Open => Self::Open,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RightArg {
    /// Send messages.
    Publish,
    /// Receive messages.
    Subscribe,
}

impl From<RightArg> for Right {
    fn from(right: RightArg) -> Self {
        match right {
            RightArg::Publish => Self::Publish,
            RightArg::Subscribe => Self::Subscribe,
        }
    }
}

/// What holds for a topic whoever acts.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct TraitArgs {
    /// Messages may be retained.
    #[arg(long)]
    pub(crate) retain: bool,
    /// Personal data: every access is recorded.
    #[arg(long)]
    pub(crate) sensitive: bool,
    /// A key may use <topic>/<its address>/# and nothing else.
    #[arg(long)]
    pub(crate) own_branch: bool,
}

impl From<TraitArgs> for flytrap_policy::Traits {
    fn from(args: TraitArgs) -> Self {
        Self { retain: args.retain, sensitive: args.sensitive, own_branch: args.own_branch }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Topic {
    /// Register a name; it governs every name below it.
    Register {
        /// Topic name.
        name: String,
        /// Terms for publishing: closed, public, free/30d or 0.01ether/30d.
        #[arg(long, value_name = "OFFER", default_value = "closed", value_parser = units::offer)]
        publish: Offer,
        /// Terms for subscribing.
        #[arg(long, value_name = "OFFER", default_value = "closed", value_parser = units::offer)]
        subscribe: Offer,
        #[command(flatten)]
        traits: TraitArgs,
    },
    /// Register a topic below one of yours without its name on the chain: prints its salt and id, and keeps neither.
    Hide {
        /// The topic above: its name, or its id if that is hidden too.
        parent: String,
        /// The whole name, which begins with that of the topic above.
        name: String,
        /// Terms for publishing: closed, public, free/30d or 0.01ether/30d.
        #[arg(long, value_name = "OFFER", default_value = "closed", value_parser = units::offer)]
        publish: Offer,
        /// Terms for subscribing.
        #[arg(long, value_name = "OFFER", default_value = "closed", value_parser = units::offer)]
        subscribe: Offer,
        #[command(flatten)]
        traits: TraitArgs,
    },
    /// Tell gateways the name of a hidden topic of yours, so that it can be used there; each is told by itself.
    Disclose {
        /// The topic's id, as `topic hide` printed it.
        #[arg(value_parser = units::word)]
        id: B256,
        /// The whole name.
        name: String,
        /// The salt, as `topic hide` printed it.
        #[arg(long, value_parser = units::word)]
        salt: B256,
        #[command(flatten)]
        gateways: GatewayArgs,
    },
    /// Have gateways forget the name of a hidden topic of yours: nobody can use it there any more.
    ForgetName {
        /// The topic's id.
        #[arg(value_parser = units::word)]
        id: B256,
        #[command(flatten)]
        gateways: GatewayArgs,
    },
    /// Say from which countries it may be used, by whom ever; replaces what was said before.
    #[command(group = clap::ArgGroup::new("rule").required(true))]
    Countries {
        /// Topic name, or its id.
        name: String,
        /// From these only, such as GB,EEA.
        #[arg(long, group = "rule", value_name = "CODES")]
        only: Option<CountryList>,
        /// From all but these, such as US.
        #[arg(long, group = "rule", value_name = "CODES")]
        except: Option<CountryList>,
        /// From everywhere, and if nobody knows from where.
        #[arg(long, group = "rule")]
        any: bool,
    },
    /// Show one topic.
    Show {
        /// Topic name, or its id.
        name: String,
    },
    /// List topics.
    List {
        /// Only those of this owner.
        #[arg(long, value_parser = units::address)]
        owner: Option<Address>,
    },
    /// Change the terms for one right.
    SetOffer {
        /// Topic name.
        name: String,
        /// Which right.
        #[arg(value_enum)]
        right: RightArg,
        /// closed, public, free/30d or 0.01ether/30d.
        #[arg(value_parser = units::offer)]
        offer: Offer,
    },
    /// Set retain, sensitive and own-branch; what is not given is off.
    SetTraits {
        /// Topic name.
        name: String,
        #[command(flatten)]
        traits: TraitArgs,
    },
    /// Let a wallet manage it for you: offers, grants, blocks, topics below.
    SetManager {
        /// Topic name.
        name: String,
        /// Whom.
        #[arg(value_parser = units::address)]
        wallet: Address,
    },
    /// End that.
    RemoveManager {
        /// Topic name.
        name: String,
        /// Whom.
        #[arg(value_parser = units::address)]
        wallet: Address,
    },
    /// Delete it with every grant and block; names below keep their own topics.
    Delete {
        /// Topic name.
        name: String,
    },
}

/// Which gateways.
#[derive(Clone, Debug, Args)]
pub(crate) struct GatewayArgs {
    /// Where a gateway has its API, such as https://gateway.example; once for each gateway of the broker.
    #[arg(long = "url", required = true, value_name = "URL", value_parser = names::api_url)]
    pub(crate) urls: Vec<Url>,
}

/// Why access is given or taken: public for ever, never personal data.
#[derive(Clone, Debug, Args)]
pub(crate) struct Why {
    /// Lawful basis (GDPR Article 6(1)).
    #[arg(long, value_enum, default_value_t = Basis::None)]
    pub(crate) basis: Basis,
    /// Short code of the purpose, at most 31 ASCII characters, such as care or billing.
    #[arg(long, default_value = "", value_name = "CODE", value_parser = purpose_code)]
    pub(crate) purpose: String,
    /// A few words, at most 256 octets.
    #[arg(long, default_value = "")]
    pub(crate) note: String,
}

/// Lawful basis, numbered as in the first octet of a purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Basis {
    /// None stated.
    None,
    /// The person agreed.
    Consent,
    /// A contract needs it.
    Contract,
    /// The law demands it.
    LegalObligation,
    /// A life depends on it.
    VitalInterests,
    /// A public task.
    PublicTask,
    /// Legitimate interests.
    LegitimateInterests,
}

fn purpose_code(text: &str) -> Result<String, String> {
    if text.len() > 31 || !text.bytes().all(|octet| octet.is_ascii_graphic()) {
        return Err(format!(
            "`{text}` is no purpose code: at most 31 visible ASCII characters without spaces"
        ));
    }
    Ok(text.to_owned())
}

impl Why {
    /// As the contracts keep it: one octet for the basis, then the code, padded with zeroes.
    pub(crate) fn purpose(&self) -> B256 {
        let mut octets = [0; 32];
        octets[0] = self.basis as u8;
        let code = self.purpose.as_bytes();
        octets[1..=code.len()].copy_from_slice(code);
        B256::from(octets)
    }
}

/// An end, as a time to live or as a moment.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct End {
    /// So long from now, such as 30d.
    #[arg(long, value_name = "SPAN")]
    pub(crate) life: Option<Span>,
    /// Until this moment, such as 2027-01-01.
    #[arg(long, value_name = "MOMENT")]
    pub(crate) until: Option<Moment>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Access {
    /// Give wallets a right on topics of yours, all or nothing.
    Grant {
        /// Who gets it; several with commas between them.
        wallets: Wallets,
        /// Which right.
        #[arg(value_enum)]
        right: RightArg,
        /// Topic names, or ids.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        #[command(flatten)]
        end: End,
        #[command(flatten)]
        why: Why,
    },
    /// Buy a right, or extend it; on several topics and for several wallets all or nothing.
    Buy {
        /// Which right.
        #[arg(value_enum)]
        right: RightArg,
        /// Topic names, or ids.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// How many of the offer's periods.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        periods: u32,
        /// For other wallets than the one that pays; several with commas between them.
        #[arg(long = "for", value_name = "WALLETS")]
        wallets: Option<Wallets>,
        /// Refuse if it costs more in all, such as 0.02ether; default: the price that is shown.
        #[arg(long, value_name = "AMOUNT")]
        max_price: Option<Amount>,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        why: Why,
    },
    /// End a right now, of several wallets on several topics all or nothing; the unused part of what was paid goes back.
    Revoke {
        /// Whose; several with commas between them.
        wallets: Wallets,
        /// Which right.
        #[arg(value_enum)]
        right: RightArg,
        /// Topic names, or ids.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        #[command(flatten)]
        why: Why,
    },
    /// Keep a wallet off a topic of yours; the unused part of what it paid goes back.
    Block {
        /// Whom.
        #[arg(value_parser = units::address)]
        wallet: Address,
        /// Topic name.
        name: String,
        #[command(flatten)]
        why: Why,
    },
    /// End a block.
    Unblock {
        /// Whom.
        #[arg(value_parser = units::address)]
        wallet: Address,
        /// Topic name.
        name: String,
    },
    /// Take what is owed to your wallet: a broker's fees, and what it could not, or would not, be paid at once.
    Withdraw {
        /// To another address than your wallet.
        #[arg(long, value_name = "ADDRESS", value_parser = units::address)]
        to: Option<Address>,
    },
    /// Show the rights of a wallet on a topic.
    Show {
        /// Whose.
        #[arg(value_parser = units::address)]
        wallet: Address,
        /// Topic name.
        name: String,
    },
}

/// Wallets with commas between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wallets(pub(crate) Vec<Address>);

impl std::str::FromStr for Wallets {
    type Err = units::Misread;

    fn from_str(text: &str) -> Result<Self, units::Misread> {
        text.split(',').map(|word| units::address(word.trim())).collect::<Result<_, _>>().map(Self)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Payout {
    /// Be paid at once, to this address.
    To {
        /// Where the money goes; your own wallet's address brings back what was at first.
        #[arg(value_parser = units::address)]
        address: Address,
    },
    /// Be paid nothing at once: it is kept for you until you take it with `flytrap access withdraw`.
    Pull,
    /// Show how a wallet is paid, and what waits for it.
    Show {
        /// Whose; default: yours.
        #[arg(long, value_parser = units::address)]
        wallet: Option<Address>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Device {
    /// Make a device password, let its key act for your wallet, and print what the device needs, ready to paste.
    Add(AddDevice),
    /// Let keys act for your wallet, all or none.
    Authorize {
        /// File with a device's private key, which has to agree; may be said several times.
        #[arg(long, value_name = "FILE", required = true)]
        device_key_file: Vec<PathBuf>,
        #[command(flatten)]
        end: End,
    },
    /// End keys, all or none.
    Revoke {
        /// The keys' addresses.
        #[arg(value_parser = units::address, required = true, value_name = "DEVICE")]
        devices: Vec<Address>,
    },
    /// End all keys of your wallet.
    RevokeAll,
    /// List the keys of a wallet.
    List {
        /// Whose; default: yours.
        #[arg(long, value_parser = units::address)]
        wallet: Option<Address>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct AddDevice {
    #[command(flatten)]
    pub(crate) end: End,
    /// The gateway, such as mqtts://host:8883; default: the first that is on chain.
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<Server>,
    /// The device's client id; default: made of its address.
    #[arg(long, value_name = "ID", value_parser = settings::client_id)]
    pub(crate) client_id: Option<String>,
    /// Certificates to trust, where the device's system does not trust the gateway's by itself.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Topic to publish to, for software that wants to know.
    #[arg(long, value_name = "NAME")]
    pub(crate) topic: Option<String>,
    /// Whose settings.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token; nothing is sent anywhere.
    Make {
        /// The client id that the token is bound to.
        #[arg(long)]
        client_id: String,
        /// How long it lives.
        #[arg(long, value_name = "SPAN", default_value = "30d")]
        life: Span,
        /// For a contract (ERC-1271) that takes your key's signature for its own.
        #[arg(long, value_name = "ADDRESS", value_parser = units::address)]
        contract_wallet: Option<Address>,
    },
    /// End all tokens that your wallet issued before a moment.
    Invalidate {
        /// Default: the newest block.
        #[arg(long, value_name = "MOMENT")]
        before: Option<Moment>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Ban {
    /// Ban a wallet (0x and 40 digits) or an origin's pseudonym (0x and 64).
    Add {
        /// Whom.
        #[arg(value_parser = subject)]
        subject: Subject,
        #[command(flatten)]
        end: End,
        /// Public for ever, never personal data.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// List the bans in force.
    List,
    /// End a ban.
    Lift {
        /// Whom.
        #[arg(value_parser = subject)]
        subject: Subject,
    },
}

/// Whom a ban is against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Wallet(Address),
    Origin(B256),
}

fn subject(text: &str) -> Result<Subject, units::Misread> {
    if text.len() == 66 {
        units::word(text).map(Subject::Origin)
    } else {
        units::address(text).map(Subject::Wallet)
    }
}

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    pub(crate) about: AuditAbout,
    /// From this moment on: 2026-11-24T12:00:00Z, Unix seconds, block:1234, or 2h for two hours ago.
    #[arg(long, global = true, value_name = "MOMENT")]
    pub(crate) from: Option<Moment>,
    /// Up to this moment.
    #[arg(long, global = true, value_name = "MOMENT")]
    pub(crate) to: Option<Moment>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditAbout {
    /// Everything about one topic.
    Topic {
        /// Topic name, or its id (0x and 64 digits).
        name: String,
        #[command(flatten)]
        telling: Telling,
    },
    /// Everything that a wallet or a device key did or that was done to it.
    Wallet {
        /// Whose.
        #[arg(value_parser = units::address)]
        wallet: Address,
        #[command(flatten)]
        telling: Telling,
    },
    /// Everything about the broker.
    Broker {
        #[command(flatten)]
        telling: Telling,
    },
    /// Everything that fits: who, which topic, when, from where, allowed or refused.
    Ask {
        /// Which wallet or device key.
        #[arg(long, value_name = "WALLET", value_parser = units::address)]
        who: Option<Address>,
        /// Topic name, or its id (0x and 64 digits).
        #[arg(long, value_name = "NAME")]
        topic: Option<String>,
        #[command(flatten)]
        telling: Telling,
    },
    /// Who was entitled to a topic at one second or block, who used it, who was refused, and who could and never did.
    At(AtArgs),
    /// Keys that were used from more than one country, those that were in two at once first: copied credentials, and travellers.
    Roaming {
        #[command(flatten)]
        records: RecordsArgs,
    },
    /// Check a gateway's exported records against the anchors on chain. Ends with 0 only if nothing in it was changed and no interval between its first and its last is missing; says what is not in it.
    Verify(VerifyArgs),
}

/// What of the past is told, and how.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Telling {
    #[command(flatten)]
    pub(crate) records: RecordsArgs,
    /// Only what was allowed, or what was refused.
    #[arg(long, value_enum, value_name = "DECISION")]
    pub(crate) decision: Option<Decision>,
    /// Only what came from this country, such as GB, or `unknown`.
    #[arg(long, value_name = "COUNTRY", value_parser = countries::country_or_unknown)]
    pub(crate) country: Option<String>,
    /// Only what this device key did.
    #[arg(long, value_name = "KEY", value_parser = units::address)]
    pub(crate) device: Option<Address>,
    /// Add records up, by who, device, topic, what, rule and country, instead of telling each; needs --records.
    #[arg(long, requires = "records")]
    pub(crate) sum: bool,
    /// Answer in CSV, for spreadsheets.
    #[arg(long, conflicts_with = "json")]
    pub(crate) csv: bool,
}

/// Which records of gateways are read beside the chain.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RecordsArgs {
    /// Files that `flytrap-gateway export` wrote. Each is verified first.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) records: Vec<PathBuf>,
    /// Tell what is in a file that does not verify too, marked as such.
    #[arg(long, requires = "records")]
    pub(crate) unverified: bool,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Decision {
    /// Messages that went through.
    Allowed,
    /// Messages, filters, wills and proofs that were refused, and sessions that were ended.
    Refused,
}

#[derive(Debug, Args)]
pub(crate) struct AtArgs {
    /// Topic name, or its id (0x and 64 digits).
    pub(crate) topic: String,
    /// When: 2026-11-24T12:00:00Z, Unix seconds, block:1234, or 2h for two hours ago.
    #[arg(value_name = "MOMENT")]
    pub(crate) moment: Moment,
    #[command(flatten)]
    pub(crate) records: RecordsArgs,
    /// Count as used at that moment what was used so long before or after it.
    #[arg(long, value_name = "SPAN")]
    pub(crate) within: Option<Span>,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The file, as `flytrap-gateway export` writes it.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Show the records about this topic (name or id).
    #[arg(long, value_name = "NAME")]
    pub(crate) topic: Option<String>,
    /// Show the records about this wallet.
    #[arg(long, value_parser = units::address, value_name = "WALLET")]
    pub(crate) wallet: Option<Address>,
    /// Show all records.
    #[arg(long)]
    pub(crate) show: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Can {
    /// Who.
    #[arg(value_parser = units::address)]
    pub(crate) wallet: Address,
    /// What.
    #[arg(value_enum)]
    pub(crate) right: RightArg,
    /// Topic name; for subscribe also a filter.
    pub(crate) name: String,
    /// Publish with the retain flag.
    #[arg(long)]
    pub(crate) retain: bool,
    /// Connecting from this country, such as GB; default: one that is not known.
    #[arg(long, value_name = "COUNTRY", value_parser = countries::country)]
    pub(crate) from: Option<Country>,
    /// As the chain was, or as far as it knows will be, at this moment: 2026-11-24T12:00:00Z, Unix seconds, block:1234, or 2h for two hours ago.
    #[arg(long, value_name = "MOMENT")]
    pub(crate) at: Option<Moment>,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// End after the tour; fail if anything was not as told.
    #[arg(long)]
    pub(crate) once: bool,
    /// Use the broker and the client of the npm packages although Mosquitto is installed.
    #[arg(long)]
    pub(crate) npm: bool,
    /// Let the gateway listen on this port (plain) and the next (TLS), instead of free ones.
    #[arg(long, value_name = "PORT")]
    pub(crate) port_base: Option<u16>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    const WALLET: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";

    fn parse(words: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("flytrap").chain(words.split_whitespace()))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_reads_its_example() {
        let examples = [
            "broker create --name Farm --policy open",
            "broker set-fee --publish-per-day 0.001ether --sale 5%",
            "topic register farm/n1 --subscribe 0.01ether/1d --retain",
            "topic set-offer farm/n1 publish closed",
            &format!(
                "access grant {WALLET} publish farm/n1 --life 30d --basis contract --purpose care"
            ),
            &format!("access grant {WALLET},{WALLET} publish farm/n1 farm/n2 --life 30d"),
            &format!("access buy subscribe a b --for {WALLET},{WALLET} --yes"),
            &format!("access revoke {WALLET},{WALLET} subscribe farm/n1 farm/n2"),
            "topic countries farm/n1 --only GB,EEA",
            "topic countries farm/n1 --except us",
            "topic countries farm/n1 --any",
            "topic hide farm farm/secret --sensitive",
            &format!("payout to {WALLET}"),
            "payout pull",
            "payout show",
            &format!("device revoke {WALLET} {WALLET}"),
            "device authorize --device-key-file a --device-key-file b --life 1d",
            "access buy subscribe farm/n1 --periods 2 --max-price 0.02ether --yes",
            &format!("access revoke {WALLET} subscribe farm/n1 --note ended"),
            "device add --life 365d",
            "device add --life 1d --server mqtts://gw:1 --client-id n1 --format homeassistant",
            "token make --client-id dev1 --life 30d",
            &format!("token make --client-id dev1 --contract-wallet {WALLET}"),
            "token invalidate --before 2026-01-01",
            &format!("ban add {WALLET} --life 1h --reason flood"),
            "audit topic farm/n1 --from 2h --to block:9 --json",
            "--json audit broker",
            "audit topic farm/n1 --records a.jsonl b.jsonl --decision refused --country gb --csv",
            &format!("audit ask --who {WALLET} --topic farm --records a --country unknown --sum"),
            "audit at farm/n1 2026-11-24T12:00:00+01:00 --records a b --within 30s",
            "audit roaming --records a --from 2h",
            &format!("can {} publish farm/n1 --from gb --at block:7", &WALLET[2..]),
            &format!("can {WALLET} subscribe farm/#"),
            "demo --once",
        ];
        for example in examples {
            assert!(
                parse(example).is_ok(),
                "{example}: {:?}",
                parse(example).err().map(|e| e.to_string())
            );
        }
    }

    #[test]
    fn what_is_not_said_clearly_is_refused() {
        let bad = [
            "broker set-fee",
            "access grant 0x12 publish farm/n1 --life 30d",
            &format!("access grant {WALLET} publish farm/n1"),
            &format!("access grant {WALLET} publish farm/n1 --life 30d --until 2027-01-01"),
            "access buy subscribe farm/n1 --max-price 0.02",
            "access buy subscribe farm/n1 --periods 0",
            "topic register farm --subscribe 0.01ether",
            "topic countries farm",
            "topic countries farm --only GB --any",
            "topic countries farm --only UK",
            "topic countries farm --only GB --except US",
            &format!("access grant {WALLET},0x12 publish farm/n1 --life 30d"),
            &format!("access grant {WALLET} publish --life 30d"),
            &format!("access grant {WALLET}, publish farm --life 30d"),
            "access buy subscribe --yes",
            "device revoke",
            "token make --life 30",
            "device add --life 1d --server gw:1",
            "device add --life 1d --client-id a;b",
            "device add --life 1d --format ini",
            "--key-file a --keystore b broker show",
            &format!("ban add {}ab --life 1h", WALLET),
            "audit topic farm --sum",
            "audit broker --unverified",
            "audit topic farm --country EU",
            "audit topic farm --csv --json",
            "audit at farm",
            &format!("can {WALLET} publish farm --from EEA"),
        ];
        for example in bad {
            assert!(parse(example).is_err(), "{example}");
        }
    }

    #[test]
    fn no_option_takes_a_secret_itself() {
        let mut commands = vec![Cli::command()];
        let mut looked_at = 0;
        while let Some(command) = commands.pop() {
            for argument in command.get_arguments() {
                let name = argument.get_id().as_str().to_owned();
                let secret = ["key", "passphrase", "password", "secret", "seed", "mnemonic"]
                    .iter()
                    .any(|word| name.contains(word));
                looked_at += 1;
                assert!(
                    !secret || name.ends_with("_file") || name == "keystore",
                    "{name} of {}",
                    command.get_name()
                );
            }
            commands.extend(command.get_subcommands().cloned());
        }
        assert!(looked_at > 30, "{looked_at}");
    }

    #[test]
    fn a_purpose_is_its_basis_and_its_code() {
        let why = Why { basis: Basis::Contract, purpose: "care".into(), note: String::new() };
        assert_eq!(&why.purpose()[..6], b"\x02care\0");
        assert_eq!(Basis::LegitimateInterests as u8, 6);
        let longest = "x".repeat(31);
        let why = Why {
            basis: Basis::None,
            purpose: purpose_code(&longest).expect("31 characters"),
            note: String::new(),
        };
        assert_eq!(why.purpose()[31], b'x');
        assert!(purpose_code(&"x".repeat(32)).is_err());
        assert!(purpose_code("two words").is_err());
    }
}
