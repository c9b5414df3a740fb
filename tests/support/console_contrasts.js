// The contrast (WCAG 2.2, 1.4.3 and 1.4.11) of each text that is seen, and of the border of each control.
() => {
  const parsed = color => (color.match(/[\d.]+/g) ?? []).map(Number);
  const luminance = ([red, green, blue]) => {
    const [r, g, b] = [red, green, blue].map(each => {
      const share = each / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (one, other) => {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const behind = node => {
    for (let each = node; each; each = each.parentElement) {
      const color = parsed(getComputedStyle(each).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const seen = [...document.body.querySelectorAll("*")].filter(each => each.checkVisibility());
  const report = (node, what, color, paper, wanted) => ({
    what, element: node.outerHTML.slice(0, 120), contrast: ratio(parsed(color), paper), wanted,
  });
  const found = [];
  for (const node of seen) {
    const style = getComputedStyle(node);
    const controls = node.matches("input, select, textarea");
    const writes = [...node.childNodes].some(each => each.nodeType === 3 && each.textContent.trim());
    if (writes || controls) found.push(report(node, "text", style.color, behind(node), 4.5));
    if (node.placeholder) found.push(report(node, "placeholder", getComputedStyle(node, "::placeholder").color, behind(node), 4.5));
    if (controls && node.type !== "checkbox") found.push(report(node, "border", style.borderTopColor, behind(node.parentElement), 3));
  }
  const focus = getComputedStyle(document.querySelector("nav a")).color;
  for (const paper of ["--page", "--paper", "--code"]) {
    const probe = document.createElement("p");
    probe.className = "probe";
    document.body.append(probe);
    probe.style.backgroundColor = `var(${paper})`;
    found.push(report(probe, `focus on ${paper}`, focus, behind(probe), 3));
    probe.remove();
  }
  return found;
}
