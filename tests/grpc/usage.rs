//! ListUsage, page by page.

use tollgate::grpc::proto::{ListUsageRequest, ListUsageResponse, ReserveRequest, UsageRow};
use tonic::Status;

use super::{Service, assert_names, new_reserve, over_every_store};

over_every_store!(
    pages_of_any_size_give_every_row_once_in_order,
    a_page_has_100_rows_unless_said_and_never_more_than_1000,
    a_page_token_carries_its_day,
    a_page_token_of_another_organization_or_day_is_refused,
    a_single_days_answer_has_the_day_in_each_place,
    pages_of_a_range_give_every_row_once_in_order_also_across_midnight,
    a_page_token_of_a_range_carries_the_range_and_is_valid_for_no_other,
);

fn page(page_size: i32, page_token: &str) -> ListUsageRequest {
    ListUsageRequest {
        org: "org-demo".to_owned(),
        page_size,
        page_token: page_token.to_owned(),
        ..ListUsageRequest::default()
    }
}

impl Service {
    async fn usage(&self, request: ListUsageRequest) -> ListUsageResponse {
        self.try_usage(request).await.unwrap().into_inner()
    }

    async fn try_usage(
        &self,
        request: ListUsageRequest,
    ) -> Result<tonic::Response<ListUsageResponse>, Status> {
        self.tollgate.client().list_usage(request).await
    }

    /// Counts one token for each project and model.
    async fn use_each(&self, names: impl IntoIterator<Item = (String, String)>) {
        let mut client = self.tollgate.client();
        for (project, model) in names {
            let request = ReserveRequest {
                project,
                model,
                ..new_reserve(1)
            };
            client.reserve(request).await.unwrap();
        }
    }
}

fn names(rows: &[UsageRow]) -> Vec<(String, String)> {
    let name = |row: &UsageRow| (row.project.clone(), row.model.clone());
    rows.iter().map(name).collect()
}

async fn pages_of_any_size_give_every_row_once_in_order(service: Service) {
    let projects = ["p", "P", "p ", "p:q", "{p}", "é", "z", "🦀", "\u{ffff}"];
    let models = ["gpt-4o", "a", "gpt-4o:x"];
    let mut all: Vec<(String, String)> = projects
        .iter()
        .flat_map(|project| models.map(|model| ((*project).to_owned(), model.to_owned())))
        .collect();
    service.use_each(all.iter().rev().cloned()).await;
    // Project, then model, byte by byte.
    all.sort_by(|one, other| {
        let bytes = |it: &(String, String)| (it.0.clone().into_bytes(), it.1.clone().into_bytes());
        bytes(one).cmp(&bytes(other))
    });
    for size in 1..=i32::try_from(all.len()).unwrap() + 1 {
        let (mut listed, mut token) = (Vec::new(), String::new());
        for _ in 0..=all.len() {
            let answer = service.usage(page(size, &token)).await;
            let full = answer.rows.len() == usize::try_from(size).unwrap();
            assert!(full || answer.next_page_token.is_empty(), "a short page");
            assert!(!answer.rows.is_empty(), "an empty page");
            listed.extend(names(&answer.rows));
            token = answer.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(listed, all, "by {size}");
    }
}

async fn a_page_has_100_rows_unless_said_and_never_more_than_1000(service: Service) {
    let names = (0..1_001).map(|at| (format!("p-{at:04}"), "gpt-4o".to_owned()));
    service.use_each(names).await;
    for (page_size, rows) in [(0, 100), (1_000, 1_000), (1_001, 1_000), (i32::MAX, 1_000)] {
        let answer = service.usage(page(page_size, "")).await;
        assert_eq!(answer.rows.len(), rows, "of {page_size}");
        let rest = service.usage(page(1_000, &answer.next_page_token)).await;
        assert_eq!(
            rest.rows[0].project,
            format!("p-{rows:04}"),
            "of {page_size}"
        );
    }
}

async fn a_page_token_carries_its_day(service: Service) {
    let name = |project: &str| (project.to_owned(), "gpt-4o".to_owned());
    service.use_each([name("a"), name("b")]).await;
    let first = service.usage(page(1, "")).await;
    service.clock.set("2026-11-23T00:00:01Z");
    service.use_each([name("c")]).await;
    let rest = service.usage(page(1, &first.next_page_token)).await;
    assert_eq!(
        (first.day.as_str(), rest.day.as_str()),
        ("2026-11-22", "2026-11-22")
    );
    assert_eq!(names(&rest.rows), [name("b")]);
    let today = service.usage(page(0, "")).await;
    assert_eq!(
        (today.day.as_str(), names(&today.rows)),
        ("2026-11-23", vec![name("c")])
    );
}

async fn a_page_token_of_another_organization_or_day_is_refused(service: Service) {
    let name = |project: &str| (project.to_owned(), "gpt-4o".to_owned());
    service.use_each([name("a"), name("b")]).await;
    let token = service.usage(page(1, "")).await.next_page_token;
    let other_org = ListUsageRequest {
        org: "org-other".to_owned(),
        ..page(1, &token)
    };
    let answer = service.try_usage(other_org).await;
    assert_names("page_token", answer, "another organization");
    let of_day = |day: &str| ListUsageRequest {
        day: day.to_owned(),
        ..page(1, &token)
    };
    let answer = service.try_usage(of_day("2026-11-21")).await;
    assert_names("page_token", answer, "another day");
    assert_eq!(
        names(&service.usage(of_day("2026-11-22")).await.rows),
        [name("b")]
    );
}

async fn a_single_days_answer_has_the_day_in_each_place(service: Service) {
    let name = |project: &str| (project.to_owned(), "gpt-4o".to_owned());
    service.use_each([name("a")]).await;
    let today = "2026-11-22";
    for day in ["", today] {
        let request = ListUsageRequest {
            day: day.to_owned(),
            ..page(0, "")
        };
        let answer = service.usage(request).await;
        let days = [&answer.day, &answer.from_day, &answer.to_day];
        assert_eq!(days, [today; 3], "{day:?}");
        assert_eq!(answer.rows[0].day, today, "{day:?}");
    }
}

/// A page of the range from 2026-11-22 to today.
fn page_of_range(page_size: i32, page_token: &str) -> ListUsageRequest {
    ListUsageRequest {
        from_day: "2026-11-22".to_owned(),
        ..page(page_size, page_token)
    }
}

/// `day project` of each row.
fn days_and_projects(answer: &ListUsageResponse) -> Vec<String> {
    let text = |row: &UsageRow| format!("{} {}", row.day, row.project);
    answer.rows.iter().map(text).collect()
}

async fn pages_of_a_range_give_every_row_once_in_order_also_across_midnight(service: Service) {
    let name = |project: &str| (project.to_owned(), "gpt-4o".to_owned());
    service.use_each([name("b"), name("c")]).await;
    service.clock.set("2026-11-23T12:00:00Z");
    service.use_each([name("a"), name("b")]).await;
    let all = [
        "2026-11-22 b",
        "2026-11-22 c",
        "2026-11-23 a",
        "2026-11-23 b",
    ];
    let mut firsts = Vec::new();
    // With the range in each request, and only in the first.
    for (size, repeats) in [(1, true), (1, false), (2, true), (3, false), (4, true)] {
        let first = service.usage(page_of_range(size, "")).await;
        firsts.push((size, repeats, first));
    }
    service.clock.set("2026-11-24T00:00:01Z");
    service.use_each([name("a")]).await;
    for (size, repeats, mut answer) in firsts {
        let mut listed = days_and_projects(&answer);
        while !answer.next_page_token.is_empty() {
            assert_eq!(answer.rows.len(), usize::try_from(size).unwrap());
            let next = match repeats {
                true => page_of_range(size, &answer.next_page_token),
                false => page(size, &answer.next_page_token),
            };
            answer = service.usage(next).await;
            listed.extend(days_and_projects(&answer));
            let days = [&answer.day, &answer.from_day, &answer.to_day];
            assert_eq!(days, ["", "2026-11-22", "2026-11-23"]);
        }
        assert_eq!(listed, all, "by {size}");
    }
}

async fn a_page_token_of_a_range_carries_the_range_and_is_valid_for_no_other(service: Service) {
    let name = |project: &str| (project.to_owned(), "gpt-4o".to_owned());
    service.use_each([name("a"), name("b")]).await;
    service.clock.set("2026-11-24T12:00:00Z");
    let token = service.usage(page_of_range(1, "")).await.next_page_token;
    // Days before the retention are left out of the answers, and stay in the query.
    let early = ListUsageRequest {
        from_day: "2026-10-01".to_owned(),
        ..page(1, "")
    };
    let answer = service.usage(early.clone()).await;
    assert_eq!(answer.from_day, "2026-10-20");
    let early = ListUsageRequest {
        page_token: answer.next_page_token,
        ..early
    };
    let answer = service.usage(early).await;
    assert_eq!(answer.from_day, "2026-10-20");
    assert_eq!(days_and_projects(&answer), ["2026-11-22 b"]);
    let with = |day: &str, from_day: &str, to_day: &str| ListUsageRequest {
        day: day.to_owned(),
        from_day: from_day.to_owned(),
        to_day: to_day.to_owned(),
        ..page(1, &token)
    };
    let single_day = service.usage(page(1, "")).await;
    assert_eq!(single_day.next_page_token, "", "nothing was used today");
    for other in [
        with("2026-11-22", "", ""),
        with("", "2026-11-21", ""),
        with("", "2026-11-23", ""),
        with("", "2026-11-22", "2026-11-23"),
        ListUsageRequest {
            org: "org-other".to_owned(),
            ..page_of_range(1, &token)
        },
    ] {
        let what = format!("{other:?}");
        assert_names("page_token", service.try_usage(other).await, &what);
    }
    for same in [
        with("", "", ""),
        with("", "2026-11-22", ""),
        with("", "2026-11-22", "2026-11-24"),
    ] {
        let answer = service.usage(same).await;
        assert_eq!(days_and_projects(&answer), ["2026-11-22 b"]);
    }
    let of_a_day = ListUsageRequest {
        day: "2026-11-22".to_owned(),
        ..page(1, "")
    };
    let token = service.usage(of_a_day).await.next_page_token;
    let answer = service.try_usage(page_of_range(1, &token)).await;
    assert_names("page_token", answer, "the token of a day, for a range");
}
