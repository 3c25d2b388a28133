//! Names are data, never markup.

use serde_json::json;

use super::{Site, browser::Browser, count, get};

/// Names that would be something else in HTML, in an attribute, in an address or in a spreadsheet.
const HOSTILE: [&str; 8] = [
    "<script>window.pwned=1</script>",
    "\"><img src=x onerror=window.pwned=1>",
    "' onmouseover='window.pwned=1",
    "</title></main><h1>gone</h1>",
    "a/b?c#d%2F&amp;{{e}}",
    "..",
    "=HYPERLINK(\"http://x\")",
    "\u{202e}txt.exe \u{5d0}\u{5d1}\u{5d2}",
];

/// As long as a name may be.
fn long() -> String {
    "long-".repeat(51)
}

fn names() -> Vec<String> {
    let hostile = HOSTILE.iter().map(ToString::to_string);
    hostile.chain([long()]).collect()
}

fn policy() -> String {
    let mut text = "[program]\nname = \"<b>test</b>\"\n\
         [pools.\"<i>large\"]\nmodels = [\"gpt-4o\"]\n[tiers.1]\n\"<i>large\" = 1_000\n"
        .to_owned();
    for name in names() {
        let name = json!(name);
        text += &format!("[orgs.{name}]\ntier = 1\ndata_sharing = \"all\"\n");
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_of_organizations_projects_and_models_are_shown_as_text() {
    let site = Site::start(&policy(), &[]);
    let client = site.client();
    for name in names() {
        for project in names() {
            count(&client, &name, &project, &project, 1).await;
        }
    }
    let browser = Browser::start().await;
    browser.open(&site.url("/")).await;
    let mut listed = browser.texts(".organizations h2 .name").await;
    let mut expected = names();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
    for name in names() {
        // By its link on the page.
        browser.open(&site.url("/")).await;
        let link = format!(
            "return [...document.querySelectorAll('.organizations h2 a')]
                .find((it) => it.textContent === {}).href",
            json!(name)
        );
        let link = browser.run(&link).await;
        browser.open(link.as_str().unwrap()).await;
        assert_eq!(browser.texts("h1").await, [name.as_str()]);
        for table in ["project", "model"] {
            let mut shown = browser
                .texts(&format!("#{table}-table tbody th .name"))
                .await;
            shown.sort();
            assert_eq!(shown, expected, "{name}");
        }
        // Also once the script has replaced it.
        browser
            .click("#project-table thead th:nth-of-type(1) a")
            .await;
        let sorted =
            "document.querySelector('#project-table th[aria-sort]')?.ariaSort === 'ascending'";
        browser.wait_for(sorted).await;
        let mut shown = browser.texts("#project-table tbody th .name").await;
        shown.sort();
        assert_eq!(shown, expected, "{name}");
    }
    assert_eq!(browser.run("return window.pwned === undefined").await, true);
    assert_eq!(
        browser
            .run("return document.querySelectorAll('main img, main script').length")
            .await,
        0
    );
    assert_eq!(browser.console().await, [""; 0]);
}

#[tokio::test]
async fn the_file_of_the_usage_has_every_row_and_no_formula() {
    let site = Site::start(&policy(), &[]);
    let client = site.client();
    for project in ["=1+1", "+1", "-1", "@SUM(1)", "plain, \"quoted\""] {
        count(&client, HOSTILE[4], project, "gpt-4o", 600).await;
    }
    let org = "a%2Fb%3Fc%23d%252F%26amp%3B%7B%7Be%7D%7D";
    let file = get(
        &site.tollgate.http_addr,
        &format!("/usage.csv?org={org}"),
        &[],
    );
    assert_eq!(file.status, 200, "{}", file.body);
    assert!(
        file.head.contains("content-type: text/csv"),
        "{}",
        file.head
    );
    let name = "content-disposition: attachment; filename=\"usage-a_b_c_d_2f_amp___e__-2026-11-16-2026-11-22.csv\"";
    assert!(file.head.contains(name), "{}", file.head);
    let row = |project: &str, counted: &str| {
        format!("a/b?c#d%2F&amp;{{{{e}}}},2026-11-22,{project},gpt-4o,<i>large,{counted},,\n")
    };
    let header = "org,day,project,model,pool,free_tokens,billed_tokens,free_requests,billed_requests,\
        provider_free_tokens,provider_billed_tokens\n";
    let rows = [
        header.to_owned(),
        row("'+1", "0,600,0,1"),
        row("'-1", "0,600,0,1"),
        row("'=1+1", "600,0,1,0"),
        row("'@SUM(1)", "0,600,0,1"),
        row("\"plain, \"\"quoted\"\"\"", "0,600,0,1"),
    ];
    assert_eq!(file.body, rows.concat());
}
