"""Scripts that tests run in web pages."""

FORM = """url => {
  const form = document.createElement("form");
  Object.assign(form, {method: "POST", action: url, enctype: "text/plain"});
  form.append(Object.assign(document.createElement("input"), {name: "form", value: "form"}));
  document.body.append(form);
  form.submit();
}"""
"""Sends a form to a URL, as a page of any origin can."""
