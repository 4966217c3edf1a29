// What scrolls sideways can be reached with the keyboard, and only that: a box that fits is no stop for the Tab key.
const boxes = document.querySelectorAll(".table-wrapper, .highlight pre, .output.text_html, div.math");
const watch = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollWidth > target.clientWidth || target.scrollHeight > target.clientHeight + 1) {
      target.tabIndex = 0;
    } else {
      target.removeAttribute("tabindex");
    }
  }
});
boxes.forEach((box) => watch.observe(box));
