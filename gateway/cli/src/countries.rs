//! Countries as people type them: codes of ISO 3166-1, and the sets of them that have a name.

use flytrap_policy::{Country, CountryRule};

use crate::units::Misread;

/// The officially assigned alpha-2 codes of ISO 3166-1.
const CODES: &str = "\
AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ \
CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR \
GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP \
KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT \
MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW \
SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ \
UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW";

/// Members of the European Union.
const EU: &str = "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK";

/// What the European Economic Area has beyond.
const EEA_BEYOND_EU: &str = "IS LI NO";

/// Countries, sets expanded, each once and in the order of their letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CountryList(pub(crate) Vec<Country>);

impl std::str::FromStr for CountryList {
    type Err = Misread;

    /// Reads codes and sets with commas between them, such as `GB,EEA`.
    fn from_str(text: &str) -> Result<Self, Misread> {
        let mut all = Vec::new();
        for word in text.split(',').map(|word| word.trim().to_ascii_uppercase()) {
            match word.as_str() {
                "EU" => all.extend(countries(EU)),
                "EEA" => all.extend(countries(EU).chain(countries(EEA_BEYOND_EU))),
                code => {
                    let known = countries(CODES).find(|country| country.to_string() == code);
                    all.push(known.ok_or_else(|| {
                        Misread(format!(
                            "`{word}` is no country: write codes of ISO 3166-1, EU or EEA, with commas between them, such as GB,EEA"
                        ))
                    })?);
                }
            }
        }
        all.sort_unstable();
        all.dedup();
        Ok(Self(all))
    }
}

fn countries(codes: &str) -> impl Iterator<Item = Country> {
    codes.split(' ').filter_map(|code| Country::new(<[u8; 2]>::try_from(code.as_bytes()).ok()?))
}

/// A country as one code, in any case.
pub(crate) fn country(text: &str) -> Result<Country, Misread> {
    let code = text.trim().to_ascii_uppercase();
    countries(CODES).find(|country| country.to_string() == code).ok_or_else(|| {
        Misread(format!("`{text}` is no country: write one code of ISO 3166-1, such as GB"))
    })
}

/// The country that a record is asked to have: a code, or `unknown`.
pub(crate) fn country_or_unknown(text: &str) -> Result<String, Misread> {
    match text {
        "unknown" => Ok(String::new()),
        code => country(code).map(|country| country.to_string()),
    }
}

/// A rule in words.
pub(crate) fn rule_text(rule: &CountryRule) -> String {
    let codes = || {
        let all = rule.countries().into_iter().flat_map(|countries| countries.iter());
        all.map(|country| country.to_string()).collect::<Vec<_>>().join(", ")
    };
    match rule {
        CountryRule::Any => "any".into(),
        CountryRule::Only(_) => format!("only {}", codes()),
        CountryRule::Except(_) => format!("all except {}", codes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        let list: CountryList = text.parse().map_err(|error: Misread| error.to_string())?;
        Ok(list.0.iter().map(Country::to_string).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn the_tables_hold_each_country_once_in_order() {
        for (table, many) in [(CODES, 249), (EU, 27), (EEA_BEYOND_EU, 3)] {
            let all: Vec<Country> = countries(table).collect();
            assert_eq!(all.len(), many);
            assert_eq!(all.len(), table.split(' ').count());
            assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "{table}");
        }
        let known = |country: Country| countries(CODES).any(|code| code == country);
        assert!(countries(EU).chain(countries(EEA_BEYOND_EU)).all(known));
    }

    #[test]
    fn sets_are_expanded_and_codes_come_once_in_order() {
        assert_eq!(read("us,gb,US").as_deref(), Ok("GB US"));
        assert_eq!(read("EU").map(|all| all.split(' ').count()), Ok(27));
        assert_eq!(read("EEA, GB, DE").map(|all| all.split(' ').count()), Ok(31));
    }

    #[test]
    fn what_is_no_country_is_refused_and_named() {
        for wrong in ["UK", "ZZ", "XX", "", "GB,", "GB US", "EFTA", "é"] {
            let error = read(wrong).unwrap_err();
            assert!(error.contains("is no country") && error.contains("ISO 3166-1"), "{error}");
        }
        assert!(read("GB,UK").unwrap_err().contains("`UK`"));
    }

    #[test]
    fn a_rule_is_told_as_it_is_typed() {
        use flytrap_policy::CountryMode;
        let codes = "US,GB".parse::<CountryList>().unwrap().0;
        let told = |mode| rule_text(&CountryRule::new(mode, &codes));
        assert_eq!(told(CountryMode::Only), "only GB, US");
        assert_eq!(told(CountryMode::Except), "all except GB, US");
        assert_eq!(told(CountryMode::Any), "any");
    }
}
